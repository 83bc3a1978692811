"""How long a step must take at least on this machine, as XLA reaches it.

Products are measured at the shapes in use, with activations as rows and as
columns, of which the faster counts; memory by reading and copying an array.
"""

from typing import Any

import gpu_cases
import gpu_ceilings
import jax

from rlcw.models.config import ModelConfig
from rlcw.tasks.plan import roofline
from rlcw.tasks.plan.roofline import Shapes

FLOPS = 1e10  # about as many in each measurement


def shapes(case: dict[str, Any]) -> Shapes:
  """A case without its padding; all briefs are of the mean length."""
  return Shapes(
    len(case['prompts']),
    case['group'],
    round(case['prompt_tokens_in_all'] / len(case['prompts'])),
    case['reply_tokens'],
  )


def rate(rows: int, width: int, inner: int, flops: float) -> float:
  """FLOPs a second of `rows` tokens by a matrix and by its transpose."""
  chain = max(1, round(flops / (4.0 * rows * width * inner)))
  scale = gpu_ceilings.Scale('float32', 0, chain, 0, repeats=3)
  device = jax.devices()[0]
  return max(
    gpu_ceilings.products(rows, width, inner, scale, device, columns)
    for columns in (False, True)
  )


def blocks_rate(rows: int, config: ModelConfig, flops: float) -> float:
  """FLOPs a second of all the products in a layer."""
  c, counts = config, {}
  for inner, count in (
    (c.num_heads * c.head_dim, 2),
    (c.num_kv_heads * c.head_dim, 2),
    (c.mlp_dim, 3),
  ):
    counts[inner] = counts.get(inner, 0) + count
  seconds = sum(
    count * inner / rate(rows, c.model_dim, inner, flops)
    for inner, count in counts.items()
  )
  return sum(count * inner for inner, count in counts.items()) / seconds


def measure(
  config: ModelConfig, s: Shapes, flops: float = FLOPS, traffic: int = 2**28
) -> dict[str, float]:
  """The ceilings of one turn's products, of a pass's, and of memory."""
  turn, rows = s.prompts * s.group, s.prompts * s.group * s.reply_tokens
  dim, vocab = config.model_dim, config.vocab_size
  memory = gpu_ceilings.Scale('float32', 0, 4, traffic, repeats=3)
  return {
    'turn_blocks': blocks_rate(turn, config, flops),
    'turn_head': rate(turn, dim, vocab, flops),
    'pass_blocks': blocks_rate(rows, config, flops),
    'pass_head': rate(rows, dim, vocab, flops),
    'memory': max(gpu_ceilings.traffic(memory, jax.devices()[0]).values()),
  }


def floors(
  config: ModelConfig, s: Shapes, best: dict[str, float]
) -> dict[str, float]:
  """Seconds of rollout and update, where each is at its ceiling.

  Args:
    config: of the model.
    s: of the step.
    best: of `measure`, FLOPs and bytes a second.
  """
  prefill = roofline.blocks_flops(config, s._replace(group=0))
  whole, head = roofline.blocks_flops(config, s), roofline.head_flops(config, s)
  products = (whole - prefill) / best['turn_blocks'] + head / best['turn_head']
  memory = gpu_cases.decoding_bytes(config, s) / best['memory']
  return {
    'rollout': prefill / best['pass_blocks'] + max(products, memory),
    'update': 3 * (whole / best['pass_blocks'] + head / best['pass_head']),
  }
