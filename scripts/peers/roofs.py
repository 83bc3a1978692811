"""Lower bounds for the time of a step, from measured ceilings of the machine.

The FLOP/s of products are measured at the shapes in use, with activations as
rows and as columns, and the faster counts; memory bandwidth is measured by
reading and by copying an array.
"""

from typing import Any

import gpu_cases
import gpu_ceilings
import jax

from rlcw.models.config import ModelConfig
from rlcw.tasks.plan import roofline
from rlcw.tasks.plan.roofline import Shapes

FLOPS = 1e10  # approximate FLOPs of each measurement


def shapes(case: dict[str, Any]) -> Shapes:
  """Shapes of a case without padding: every brief counts at the mean length."""
  return Shapes(
    len(case['prompts']),
    case['group'],
    round(case['prompt_tokens_in_all'] / len(case['prompts'])),
    case['reply_tokens'],
  )


def rate(rows: int, width: int, inner: int, flops: float) -> float:
  """FLOP/s of multiplying tokens by `[width, inner]` and by its transpose.

  Args:
    rows: number of tokens.
    width: model dimension.
    inner: the other dimension of the matrices.
    flops: approximate FLOPs of a call; small products are repeated in it.
  """
  chain = max(1, round(flops / (4.0 * rows * width * inner)))
  scale = gpu_ceilings.Scale('float32', 0, chain, 0, repeats=3)
  device = jax.devices()[0]
  return max(
    gpu_ceilings.products(rows, width, inner, scale, device, columns)
    for columns in (False, True)
  )


def blocks_rate(rows: int, config: ModelConfig, flops: float) -> float:
  """FLOP/s of all products of a layer on `rows` tokens.

  The harmonic mean of the rates, weighted by their shares of the FLOPs.
  """
  # Number of matrices `[model_dim, inner]`, by inner dimension: query and
  # output, key and value, the MLP's three.  Equal dimensions are measured once.
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
  """Measures FLOP/s of products, and bytes/s of memory.

  Args:
    config: of the model.
    s: shapes of the step.
    flops: approximate FLOPs of each measurement.
    traffic: bytes of the array that is read and copied.

  Returns:
    `turn_*`: FLOP/s with the rows of a decoding step (a token per reply);
    `pass_*`: with those of a full pass; `memory`: bytes/s.
  """
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
  """Lower bounds in seconds for rollout and update.

  Args:
    config: of the model.
    s: shapes of the step.
    best: ceilings from `measure`, in FLOP/s and bytes/s.
  """
  # group=0 leaves the briefs, without replies.
  prefill = roofline.blocks_flops(config, s._replace(group=0))
  blocks, head = (
    roofline.blocks_flops(config, s),
    gpu_cases.head_flops(config, s),
  )
  # Decoding is limited by its products or by memory, whichever takes longer.
  products = (blocks - prefill) / best['turn_blocks'] + head / best['turn_head']
  memory = gpu_cases.decoding_bytes(config, s) / best['memory']
  # An update is one forward pass and a backward pass of twice its FLOPs.
  return {
    'rollout': prefill / best['pass_blocks'] + max(products, memory),
    'update': 3 * (blocks / best['pass_blocks'] + head / best['pass_head']),
  }
