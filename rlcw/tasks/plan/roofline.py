"""Lower bounds on the time of a step: its FLOPs and bytes over a chip's peaks.

Both are counted from shapes, because XLA's own cost analysis counts the body of
a loop once.  Briefs count at their full length, replies at a step's lengths
(`load`).

Letters: P prompts of L tokens, G replies of up to T tokens to each.
"""

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

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


# Seconds that a collective takes however little it sends.  An assumption: as a
# hop to a neighbour, about 1 µs by "How to Scale Your Model"
# (jax-ml.github.io/scaling-book/sharding).
LATENCY = 1e-6


class Shapes(NamedTuple):
  """Sizes of a step's batch."""

  prompts: int  # P
  group: int  # G
  prompt_tokens: int  # L
  reply_tokens: int  # T

  @property
  def tokens(self) -> int:
    """Tokens of all briefs and replies at their full length."""
    return self.prompts * (self.prompt_tokens + self.group * self.reply_tokens)


class Decoding(NamedTuple):
  """Iterations of a rollout's decode loops, one for each token but the first.

  Counts are `[T − 1]`, the first of iteration 1.  Iteration t reads t tokens of
  each reply and draws the next one; in those after the last reply nothing runs.
  """

  rows: np.ndarray  # replies that are decoded, live or not, on all chips
  briefs: np.ndarray  # copies of a brief's keys that are read, on all chips


class Work(NamedTuple):
  """Least work of one phase of one step."""

  flops: float  # of all chips, which share them evenly
  weight_bytes: float  # each chip's HBM traffic of weights and moments
  attention_bytes: float = (
    0.0  # all chips' of keys, values, scores and the like
  )


class Times(NamedTuple):
  """Seconds of a phase, if one resource alone limited it."""

  compute: float
  hbm: float
  interconnect: float
  latency: float = 0.0  # of collectives one after another

  @property
  def bound(self) -> str:
    """Name of the resource that takes longest."""
    return max(self._asdict().items(), key=lambda item: item[1])[0]

  @property
  def least(self) -> float:
    """Lower bound on the phase's seconds.

    While a collective on which all else waits is under way, nothing is used.
    """
    return max(self[:3]) + self.latency


def linear_weights(c: ModelConfig) -> int:
  """Number of weights in the blocks' products: two FLOPs each per token."""
  further = c.layer_input_dim * c.model_dim
  total = c.num_layers * further  # that makes the layers' inputs
  for n, layer in enumerate(_layers(c)):
    heads, kv = (
      count * layer.head_dim for count in (c.num_heads, layer.num_kv_heads)
    )
    own = (1 if layer.keys_are_values else 2) if c.kv_layer(n) == n else 0
    total += c.model_dim * (2 * heads + own * kv + 3 * layer.mlp_dim)
    total += 2 * further
  return total


def _layers(c: ModelConfig) -> list[ModelConfig]:
  return [c.layer(n) for n in range(c.num_layers)]


def _heads(c: ModelConfig) -> int:
  """Channels of all query heads of all layers."""
  return sum(c.num_heads * layer.head_dim for layer in _layers(c))


def all_weights(c: ModelConfig) -> int:
  """Number of weights of the blocks, the embedding and the head."""
  width = (1 if c.tied_head else 2) * c.model_dim
  width += c.num_layers * c.layer_input_dim
  return linear_weights(c) + c.vocab_size * width


def blocks_flops(c: ModelConfig, s: Shapes) -> float:
  """FLOPs of one forward pass over briefs and replies, without the head."""
  return product_flops(c, s.tokens) + attention_flops(c, s)


def product_flops(c: ModelConfig, tokens: float) -> float:
  """FLOPs of the blocks' products with weights, in one forward pass."""
  # A multiplication and an addition for each weight and token.
  return 2.0 * linear_weights(c) * tokens


def attention_flops(c: ModelConfig, s: Shapes) -> float:
  """FLOPs of causal attention in a forward pass over briefs and replies.

  Replies have their full length, as attention does not pack them.  Sliding
  windows are ignored: a local layer counts as a global one.
  """
  seen = s.prompts * _causal(s.prompt_tokens) + s.prompts * s.group * (
    s.reply_tokens * s.prompt_tokens + _causal(s.reply_tokens)
  )
  return _pair_flops(c, seen)


def _pair_flops(c: ModelConfig, pairs: float) -> float:
  """FLOPs of attention between so many queries and keys."""
  # Two products, QKᵀ and PV, of two FLOPs each per pair and channel.
  return 4.0 * _heads(c) * pairs


def _causal(length: int) -> int:
  """Number of (query, key) pairs under a causal mask."""
  return length * (length + 1) // 2


def logit_flops(c: ModelConfig, tokens: float) -> float:
  """FLOPs of the logits of so many tokens."""
  return 2.0 * c.vocab_size * c.model_dim * tokens


def token_bytes(c: ModelConfig) -> int:
  """Bytes of a token's keys and values in all layers that have their own."""
  own = _layers(c)[: c.num_layers - c.shared_layers]
  width = sum(layer.num_kv_heads * layer.head_dim for layer in own)
  return 2 * width * _bytes(c.dtype)


def cache_bytes(c: ModelConfig, s: Shapes) -> int:
  """Bytes of the KV cache of all briefs and all replies."""
  return s.tokens * token_bytes(c)


def _bytes(dtype: str) -> int:
  """Bytes of one element."""
  return {'float32': 4, 'bfloat16': 2}[dtype]


def pass_bytes(c: ModelConfig, s: Shapes) -> float:
  """HBM bytes of attention in one pass over briefs and replies.

  Queries, keys, values and results once.  Without kernels also the score of
  every query by every key, masked ones included, written and read once.
  """
  width = 2 * sum(
    (c.num_heads + layer.num_kv_heads) * layer.head_dim for layer in _layers(c)
  )
  once = s.tokens * width * _bytes(c.dtype)
  if c.attention == 'auto':
    return once
  # A reply's queries see its brief's keys and its own.
  keys = s.prompt_tokens + s.reply_tokens
  pairs = s.prompts * (s.prompt_tokens**2 + s.group * s.reply_tokens * keys)
  return once + _scores_bytes(c, pairs)


def decode_bytes(c: ModelConfig, s: Shapes, decoding: Decoding) -> float:
  """HBM bytes of attention in all iterations of decoding.

  Each reads keys and values, a brief's once for several replies.  The kernel
  reads only the part of the replies' cache that is written; without it all is
  read, and scores are written and read.
  """
  rows, briefs = decoding
  # The decode kernel needs heads that fill whole lanes of a vector register.
  lanes = all(layer.head_dim % LANES == 0 for layer in _layers(c))
  if c.attention == 'auto' and lanes:
    own, scores = rows @ (np.arange(len(rows)) + 1), 0
  else:
    keys = s.prompt_tokens + s.reply_tokens
    own, scores = rows.sum() * s.reply_tokens, rows.sum() * keys
  read = float(briefs.sum() * s.prompt_tokens + own) * token_bytes(c)
  return read + _scores_bytes(c, float(scores))


def _scores_bytes(c: ModelConfig, pairs: float) -> float:
  """Bytes to write and read a float32 for each pair, head and layer."""
  return 2.0 * 4 * c.num_layers * c.num_heads * pairs


def prefill(c: ModelConfig, s: Shapes, weights: int) -> Work:
  """Work of reading every brief once, and drawing G tokens at its end.

  Args:
    c: of the policy.
    s: sizes of the batch.
    weights: bytes of them that each chip reads.
  """
  briefs = s._replace(group=0)
  flops = blocks_flops(c, briefs)
  flops += logit_flops(c, s.prompts * s.group)
  return Work(flops, weights, pass_bytes(c, briefs))


def decode(c: ModelConfig, s: Shapes, decoding: Decoding, weights: int) -> Work:
  """Work of all iterations of decoding.

  Args:
    c: of the policy.
    s: sizes of the batch.
    decoding: rows of each iteration.
    weights: bytes of them that each chip reads in an iteration.
  """
  rows = decoding.rows
  pairs = float(rows @ (s.prompt_tokens + np.arange(len(rows)) + 1))
  flops = product_flops(c, rows.sum()) + logit_flops(c, rows.sum())
  flops += _pair_flops(c, pairs)
  attention = decode_bytes(c, s, decoding)
  return Work(float(flops), int(np.count_nonzero(rows)) * weights, attention)


def score(
  c: ModelConfig, s: Shapes, tokens: float, weights: int, logits: float = 0
) -> Work:
  """Work of a forward pass.

  Args:
    c: of the model that scores.
    s: sizes of the batch.
    tokens: of the rows that the pass computes.
    weights: bytes of them that each chip reads.
    logits: tokens whose log-probabilities are computed.
  """
  flops = product_flops(c, tokens) + attention_flops(c, s)
  return Work(flops + logit_flops(c, logits), weights, pass_bytes(c, s))


def gradient(
  c: ModelConfig,
  s: Shapes,
  tokens: float,
  logits: float,
  parts: int,
  weights: int,
  learned: int,
) -> Work:
  """Work of the gradient: forward, backward and recomputation.

  The backward pass costs twice the forward one, or as much for products with
  weights that are not trained.  Logits and attention are always recomputed for
  it, and whole blocks under `remat`.  Adapters are not counted.

  Args:
    c: of the policy.
    s: sizes of the batch.
    tokens: of the rows that the passes compute.
    logits: tokens whose log-probabilities are computed.
    parts: of the batch, a pass for each.
    weights: bytes of them that each chip reads in a pass.
    learned: bytes of trained weights on each chip, in float32.
  """
  # Weights are read forward, for gradients of inputs, for gradients of weights,
  # and once more where blocks are recomputed.
  passes = 2 + (c.lora is None)
  flops = (passes + c.remat) * product_flops(c, tokens)
  # Forward, recomputed, and two backward products for each of the forward one.
  flops += 4 * attention_flops(c, s)
  flops += (passes + 1) * logit_flops(c, logits)
  # Each part reads and writes the sum of gradients.
  held = parts * ((passes + c.remat) * weights + 2 * learned)
  return Work(flops, held, 4 * pass_bytes(c, s))


def optimiser(learned: int, moments: int, updates: int = 1) -> Work:
  """Work of the optimiser, given the bytes of its arrays on each chip.

  Each update reads the gradient, and reads and writes weights and moments.
  """
  return Work(0.0, updates * (learned + 2 * (learned + moments)))


def times(
  work: Work, sent: float, waits: float, chip: Chip, chips: int, sharing: int
) -> Times:
  """Roofline times (Williams et al., 2009), the interconnect as a third roof.

  Args:
    work: of the phase.
    sent: bytes that each chip sends to others.
    waits: number of collectives that all else waits for.
    chip: peak rates of one chip.
    chips: number of chips.
    sharing: number of chips that attention is split over.
  """
  hbm_bytes = work.weight_bytes + work.attention_bytes / sharing
  return Times(
    work.flops / chips / chip.flops,
    hbm_bytes / chip.hbm_bandwidth,
    sent / chip.ici_bandwidth,
    waits * LATENCY,
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
