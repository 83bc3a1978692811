"""Lower bounds on the time of a step: its FLOPs and bytes over a chip's peaks.

Both are counted from shapes, because XLA's own cost analysis counts the body of
a loop once.  All briefs and replies count at their full length.

Letters: P prompts of L tokens, G replies of T tokens to each.
"""

import dataclasses
import os
from typing import Any, NamedTuple

from rlcw.models.attention_decode import LANES
from rlcw.models.config import ModelConfig
from rlcw.runtime.ranges import nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peak rates and memory of one TPU chip.

  Source: Google Cloud, "TPU v5e", "TPU v5p" and "TPU v6e"
  (docs.cloud.google.com/tpu/docs/v5e, /v5p, /v6e).  Only `hbm_gib` is from the
  compiler's out-of-memory message: the part of HBM that programs may use.
  """

  hbm_gib: float
  flops: float  # per second, in bfloat16
  hbm_bandwidth: float  # bytes per second
  ici_bandwidth: float  # bytes sent per second, over all links together


CHIPS = {
  'v5e': Chip(15.75, 197e12, 819e9, 200e9),
  'v5p': Chip(95.74, 459e12, 2765e9, 600e9),
  'v6e': Chip(31.25, 918e12, 1638e9, 400e9),
}


class Shapes(NamedTuple):
  """Sizes of a step's batch."""

  prompts: int  # P
  group: int  # G
  prompt_tokens: int  # L
  reply_tokens: int  # T


class Work(NamedTuple):
  """Least work of one phase of one step, summed over all chips."""

  flops: float
  hbm_bytes: float  # read and written
  attention_bytes: float = 0.0  # of these, keys, values, scores and the like


class Times(NamedTuple):
  """Seconds of a phase, if one resource alone limited it."""

  compute: float
  hbm: float
  interconnect: float

  @property
  def bound(self) -> str:
    """Name of the resource that takes longest."""
    return max(self._asdict().items(), key=lambda item: item[1])[0]


def linear_weights(c: ModelConfig) -> int:
  """Number of weights in the blocks' products: two FLOPs each per token."""
  heads, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
  attention = c.model_dim * (2 * heads + 2 * kv)
  return c.num_layers * (attention + 3 * c.model_dim * c.mlp_dim)


def all_weights(c: ModelConfig) -> int:
  """Number of weights of the blocks, the embedding and the head."""
  tables = 1 if c.tied_head else 2
  return linear_weights(c) + tables * c.vocab_size * c.model_dim


def blocks_flops(c: ModelConfig, s: Shapes) -> float:
  """FLOPs of one forward pass over briefs and replies, without the head."""
  tokens = s.prompts * (s.prompt_tokens + s.group * s.reply_tokens)
  # A multiplication and an addition for each weight and token.
  return 2 * linear_weights(c) * tokens + attention_flops(c, s)


def attention_flops(c: ModelConfig, s: Shapes) -> float:
  """FLOPs of causal attention in one such pass.

  Sliding windows are ignored: a local layer counts as a global one.
  """
  seen = s.prompts * _causal(s.prompt_tokens) + s.prompts * s.group * (
    s.reply_tokens * s.prompt_tokens + _causal(s.reply_tokens)
  )
  # Two products, QKᵀ and PV, of two FLOPs each per pair and channel.
  return 4.0 * c.num_layers * c.num_heads * c.head_dim * seen


def _causal(length: int) -> int:
  """Number of (query, key) pairs under a causal mask."""
  return length * (length + 1) // 2


def head_flops(c: ModelConfig, s: Shapes) -> float:
  """FLOPs of the logits of every reply token."""
  tokens = s.prompts * s.group * s.reply_tokens
  return 2.0 * c.vocab_size * c.model_dim * tokens


def cache_bytes(c: ModelConfig, s: Shapes) -> int:
  """Bytes of the KV cache of all briefs and all replies."""
  tokens = s.prompts * (s.prompt_tokens + s.group * s.reply_tokens)
  width = 2 * c.num_layers * c.num_kv_heads * c.head_dim
  return tokens * width * _bytes(c.dtype)


def _bytes(dtype: str) -> int:
  """Bytes of one element."""
  return {'float32': 4, 'bfloat16': 2}[dtype]


def pass_bytes(c: ModelConfig, s: Shapes) -> float:
  """HBM bytes of attention in one pass over briefs and replies.

  Queries, keys, values and results once.  Without kernels also the score of
  every query by every key, masked ones included, written and read once.
  """
  tokens = s.prompts * (s.prompt_tokens + s.group * s.reply_tokens)
  width = 2 * (c.num_heads + c.num_kv_heads) * c.head_dim
  once = c.num_layers * tokens * width * _bytes(c.dtype)
  if c.attention == 'auto':
    return once
  # A reply's queries see its brief's keys and its own.
  keys = s.prompt_tokens + s.reply_tokens
  pairs = s.prompts * (s.prompt_tokens**2 + s.group * s.reply_tokens * keys)
  return once + _scores_bytes(c, pairs)


def decode_bytes(c: ModelConfig, s: Shapes) -> float:
  """HBM bytes of attention in all decode steps.

  Each step reads keys and values, a brief's once for its whole group.  The
  kernel reads only the part of the replies' cache that is written, on average
  half of it; without it all is read, and scores are written and read.
  """
  total = cache_bytes(c, s)
  # The decode kernel needs heads that fill whole lanes of a vector register.
  if c.attention == 'auto' and c.head_dim % LANES == 0:
    replies = total - cache_bytes(c, s._replace(group=0))
    unread = replies * (s.reply_tokens - 1) / (2 * s.reply_tokens)
    return s.reply_tokens * (total - unread)
  pairs = s.prompts * s.group * (s.prompt_tokens + s.reply_tokens)
  return s.reply_tokens * (total + _scores_bytes(c, pairs))


def _scores_bytes(c: ModelConfig, pairs: int) -> int:
  """Bytes to write and read a float32 for each pair, head and layer."""
  return 2 * 4 * c.num_layers * c.num_heads * pairs


def rollout(c: ModelConfig, s: Shapes) -> Work:
  """Work of a rollout: prefill, then T decode steps.

  Each of them reads all weights and the cache.
  """
  attention = pass_bytes(c, s._replace(group=0)) + decode_bytes(c, s)
  weights = (1 + s.reply_tokens) * all_weights(c) * _bytes(c.dtype)
  flops = blocks_flops(c, s) + head_flops(c, s)
  return Work(flops, weights + attention, attention)


def score(c: ModelConfig, s: Shapes, *, head: bool) -> Work:
  """Work of a forward pass; with log-probabilities, if there is a head."""
  flops = blocks_flops(c, s) + head * head_flops(c, s)
  attention = pass_bytes(c, s)
  weights = all_weights(c) * _bytes(c.dtype)
  return Work(flops, weights + attention, attention)


def update(
  c: ModelConfig, s: Shapes, microbatches: int, moment_dtype: str
) -> Work:
  """Work of an update: forward, backward, recomputation and the optimiser.

  The backward pass costs twice the forward one.  Logits and attention are
  always recomputed for it, and whole blocks under `remat`.  The optimiser reads
  and writes float32 weights, two moments and, for each microbatch, the
  gradient.  Adapters are not counted, and frozen weights count as if they had
  gradients.
  """
  # Weights are read forward, for gradients of inputs, for gradients of weights,
  # and once more where blocks are recomputed.
  passes = 3 + c.remat
  again = blocks_flops(c, s) if c.remat else attention_flops(c, s)
  # The head: forward, recomputed, and twice backward.
  flops = 3 * blocks_flops(c, s) + again + 4 * head_flops(c, s)
  weights = all_weights(c)
  reading = microbatches * passes * weights * _bytes(c.dtype)
  gradient = 2 * 4 * microbatches * weights
  optimiser = 2 * weights * (4 + 4 + _bytes(moment_dtype))
  # Forward, recomputed, and two backward products.
  attention = 4 * pass_bytes(c, s)
  return Work(flops, reading + gradient + optimiser + attention, attention)


def times(work: Work, sent: float, chip: Chip, chips: int) -> Times:
  """Roofline times (Williams et al., 2009), the interconnect as a third roof.

  Args:
    work: of all chips, which share it evenly.
    sent: bytes that each chip sends to others.
    chip: peak rates of one chip.
    chips: number of chips.
  """
  return Times(
    work.flops / chips / chip.flops,
    work.hbm_bytes / chips / chip.hbm_bandwidth,
    sent / chip.ici_bandwidth,
  )


# Slices that libtpu can compile for, smallest first.
TOPOLOGIES = {
  'v5e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
  'v5p': ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8'),
  'v6e': ('2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16'),
}


def check(topology: str) -> None:
  """Raises ValueError if there is no such slice."""
  name, _, grid = topology.partition(':')
  if grid not in TOPOLOGIES.get(name, ()):
    valid = [f'{n}:{g}' for n, grids in TOPOLOGIES.items() for g in grids]
    raise ValueError(
      f'plan.topology={topology!r} is unknown; expected one of {valid}'
      + nearest(topology, valid)
    )


def slice_of(topology: str) -> tuple[Chip, list[Any]]:
  """Peak rates of a slice's chip, and its devices to compile for.

  Args:
    topology: the slice's name, such as `v5e:4x4`.

  Raises:
    ValueError: there is no such slice, or libtpu is not installed.
  """
  check(topology)
  name = topology.partition(':')[0]
  # Off a TPU machine, libtpu would otherwise wait for a metadata server.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
  os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
  from jax.experimental import topologies

  try:
    description = topologies.get_topology_desc(
      platform='tpu', topology_name=topology
    )
  except (ModuleNotFoundError, RuntimeError) as error:
    raise ValueError(
      'task plan needs the TPU compiler, libtpu: pip install -e .[tpu] '
      f'({error})'
    ) from None
  return CHIPS[name], list(description.devices)


def other_slices(topology: str, *, smaller: bool) -> list[str]:
  """Smaller or larger slices of the same chips, the nearest in size first."""
  name, _, grid = topology.partition(':')
  grids = TOPOLOGIES[name]
  place = grids.index(grid)
  rest = grids[:place][::-1] if smaller else grids[place + 1 :]
  return [f'{name}:{grid}' for grid in rest]
