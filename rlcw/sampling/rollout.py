"""Group rollout: G sampled replies to each brief, with one prefill per brief.

  1. start     every brief once; its keys are kept, and shared by its G replies
  2. decode    appends a token to every reply per iteration; a program for each
               cache length and number of rows
  3. Rollout   tokens with EOS, lengths, log-probabilities

A token's randomness is a function of (seed, step, brief, reply, position)
alone: replies do not depend on the other rows of the batch, on the mesh, or on
restarts.

Shape letters: P prompts, G replies per prompt, L prompt length, T reply budget,
S cache length.
"""

from collections.abc import Sequence
from typing import Any

import jax

from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype
from rlcw.runtime.mesh import platform
from rlcw.sampling import tiles
from rlcw.sampling.decoding import (
  Rollout,
  decode,
  gather_layer,
  gather_rows,
  grow_cache,
  put_back,
  split_blocks,
  start,
  whole_replies,
)
from rlcw.sampling.grammar import Grammar
from rlcw.sampling.samplers import Sampler


def cache_sizes(max_new_tokens: int) -> list[int]:
  """Cache lengths S of the decode programs, in tokens.

  XLA reads the full cache for every token, unwritten positions included;
  growing it in quarters saves three eighths of these reads.  Each length is
  compiled separately, so there are at most four, of at least 128 tokens.  The
  TPU kernel reads written positions only, so there a single length suffices.
  """
  parts = min(max_new_tokens // 128, 4) or 1
  if platform() == 'tpu':
    parts = 1
  return [-(-max_new_tokens * n // parts) for n in range(1, parts + 1)]


def sample_and_count(
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  brief_id_P: jax.Array,
  method: Sampler,
  seed: jax.Array | int,
  step: jax.Array | int,
  grammar: Grammar | None = None,
  *,
  config: ModelConfig,
  group_size: int,
  max_new_tokens: int,
  eos: tuple[int, ...],
  stop: tuple[int, ...] = (),
  gather: bool = False,
  spent: Sequence[jax.Array] = (),
) -> tuple[Rollout, int]:
  """Samples G replies to each brief.

  Args:
    params: of the policy.
    prompt_PxL: ids of chat-formatted briefs, padded on the right.
    length_P: lengths of the briefs, at least 1.
    brief_id_P: an integer per brief that is folded into its random keys.
    method: see `samplers`.
    seed: of the run.
    step: of the run; different steps have different randomness.
    grammar: automaton that constrains the replies, or None; it must be able to
      reach its end within T tokens.
    config: of the model.
    group_size: G.
    max_new_tokens: T.
    eos: ids that end a reply.
    stop: ids that have no place in a reply, and cut it off unfinished.
    gather: whether to gather live replies into smaller batches as others end.
      Each size is compiled, which pays if the same shapes are sampled often.
    spent: stacked weights in `params` that nobody reads afterwards; they are
      deleted as soon as they have been split into layers.

  Returns:
    A `Rollout`, and the number of tokens that its rows had time for: the
    replies' lengths are the share that was not idle.  Programs are compiled
    once per (P, L, G, T) and type of method; temperature, p, seed and step are
    traced.
  """
  tiling = tiles.tiling(len(prompt_PxL), group_size, gather=gather)
  static = dict(config=config, eos=eos, stop=stop, tiling=tiling)
  rows, briefs, cache, left = start(
    params,
    prompt_PxL,
    length_P,
    brief_id_P,
    method,
    seed,
    step,
    grammar,
    max_new_tokens=max_new_tokens,
    **static,
  )
  layers = split_blocks(params['blocks'], config.dtype, spent)
  rest = as_dtype(
    {k: v for k, v in params.items() if k != 'blocks'}, config.dtype
  )
  whole, t, slots = rows.rollout, 1, rows.last.size
  lengths, sizes = cache_sizes(max_new_tokens), [*tiling.sizes]
  # The host sees the two numbers that decide, replicated over all processes,
  # whenever a program ends.
  while (left := int(left)) and t < max_new_tokens:
    while sizes and left <= sizes[0]:
      whole = put_back(whole, rows)
      rows, slot_PxG = gather_rows(rows, tiling, sizes.pop(0))
      # Layer by layer, so that little is in memory twice.
      for n in range(config.num_layers):
        briefs[n], cache[n] = gather_layer(briefs[n], cache[n], slot_PxG)
    if t > cache[0].v.shape[-2]:
      size = next(size for size in lengths if size >= t)
      for n in range(config.num_layers):
        cache[n] = grow_cache(cache[n], size)
    enough = sizes[0] if sizes else 0
    before = t
    rows, cache, t, left = decode(
      rest, layers, briefs, cache, rows, t, enough, method, grammar, **static
    )
    t = int(t)
    slots += (t - before) * rows.last.size
  if len(sizes) < len(tiling.sizes):
    whole = put_back(whole, rows)
  else:
    whole = rows.rollout
  if stop:
    finished = whole_replies(whole, config=config, stop=stop)
    whole = whole.replace(finished=finished)
  return whole, slots


def sample(*inputs: Any, **options: Any) -> Rollout:
  """Samples G replies to each brief: `sample_and_count` without the count."""
  return sample_and_count(*inputs, **options)[0]
