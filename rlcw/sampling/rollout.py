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

from collections.abc import Callable, Sequence
from typing import Any

import jax

from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params, as_dtype
from rlcw.runtime import processes
from rlcw.runtime.mesh import platform
from rlcw.sampling import tiles
from rlcw.sampling.decoding import Rollout, Setup, decode, mark_cut, start
from rlcw.sampling.grammar import Grammar
from rlcw.sampling.moving import (
  Weights,
  gather_layer,
  gather_rows,
  grow_cache,
  put_back,
  split_blocks,
)
from rlcw.sampling.samplers import Sampler


def make_setup(
  prompts: tuple[int, int],
  *,
  config: ModelConfig,
  group_size: int,
  max_new_tokens: int,
  eos: tuple[int, ...],
  stop: tuple[int, ...] = (),
  gather: bool = False,
) -> Setup:
  """Setup of a rollout for the ambient mesh and its platform.

  Args:
    prompts: shape `[P, L]` of the briefs.
    config: as the other arguments, see `sample_and_count`.
  """
  count, length = prompts
  tiling = tiles.tiling(
    count, group_size, length, max_new_tokens, gather=gather
  )
  for_tpu = platform() == 'tpu'
  return Setup(config, max_new_tokens, eos, stop, tiling, for_tpu)


def cache_sizes(setup: Setup) -> list[int]:
  """Cache lengths S of the decode programs, in tokens.

  XLA reads the full cache for every token, unwritten positions included;
  growing it in quarters saves three eighths of these reads.  Each length is
  compiled separately, so there are at most four, of at least 128 tokens.  The
  TPU kernel reads written positions only, so there a single length suffices.
  """
  parts = 1 if setup.for_tpu else min(setup.budget // 128, 4) or 1
  return [-(-setup.budget * n // parts) for n in range(1, parts + 1)]


def sample_and_count(
  params: Params | Weights,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  brief_id_P: jax.Array,
  sampler: Sampler,
  seed: jax.Array | int,
  step: jax.Array | int,
  grammar: Grammar | None = None,
  second: tuple[jax.Array, jax.Array] | None = None,
  *,
  config: ModelConfig,
  group_size: int,
  max_new_tokens: int,
  eos: tuple[int, ...],
  stop: tuple[int, ...] = (),
  gather: bool = False,
  spent: Sequence[jax.Array] = (),
  pause: Callable[[], None] = processes.stop_alone,
) -> tuple[Rollout, int]:
  """Samples G replies to each brief.

  Args:
    params: of the policy; as `Weights` they are in memory once.
    prompt_PxL: ids of chat-formatted briefs, padded on the right.
    length_P: lengths of the briefs, at least 1.
    brief_id_P: an integer per brief that is folded into its random keys.
    sampler: see `samplers`.
    seed: of the run.
    step: of the run; different steps have different randomness.
    grammar: automaton that constrains the replies, or None; it must be able to
      reach its end within T tokens.
    second: ids `[P, S]` of a second request after each first reply, and their
      counts `[P]`, at least 1 (`turns`); None for replies in one turn.  Not
      with a grammar.
    config: of the model.
    group_size: G.
    max_new_tokens: T.
    eos: ids that end a reply.
    stop: ids that have no place in a reply, and cut it off unfinished.
    gather: whether to gather live replies into smaller batches as others end.
      Each size is compiled, which pays if the same shapes are sampled often.
    spent: stacked weights in `params` that nobody reads afterwards; they are
      deleted as soon as they have been split into layers.
    pause: called before each decode program; ends the run if asked to stop.

  Returns:
    A `Rollout`, and the number of slots: the rows of every decode step, summed.
    Those that are more than the replies' tokens were idle.  Programs are
    compiled once per (P, L, G, T) and type of sampler; temperature, p, seed and
    step are traced.
  """
  prompts, length = prompt_PxL.shape
  setup = make_setup(
    (prompts, length),
    config=config,
    group_size=group_size,
    max_new_tokens=max_new_tokens,
    eos=eos,
    stop=stop,
    gather=gather,
  )
  whole = params.stacked() if isinstance(params, Weights) else params
  inputs = whole, prompt_PxL, length_P, brief_id_P, sampler, seed, step
  rows, briefs, cache, left = start(*inputs, grammar, second, setup=setup)
  if isinstance(params, Weights):
    layers = params.layers()
  else:
    layers = split_blocks(whole['blocks'], config.dtype, spent)
  others = {name: tree for name, tree in whole.items() if name != 'blocks'}
  others = as_dtype(others, config.dtype)
  rollout, t, slots = rows.rollout, 1, rows.last.size
  sizes = [*setup.tiling.sizes]
  # `t` and `left` alone decide which program is next.  Both are replicated, so
  # that all processes decide alike.
  while (left := int(left)) and t < max_new_tokens:
    pause()
    while sizes and left <= sizes[0]:
      rollout = put_back(rollout, rows)
      rows, slot_PxG = gather_rows(rows, setup=setup, count=sizes.pop(0))
      # Layer by layer, so that little is in memory twice.
      for n in range(len(cache)):
        briefs[n], cache[n] = gather_layer(briefs[n], cache[n], slot_PxG)
    size = next(s for s in cache_sizes(setup) if s >= t)
    if size > cache[0].v.shape[-2]:
      for n in range(len(cache)):
        cache[n] = grow_cache(cache[n], setup=setup, size=size)
    enough, model = sizes[0] if sizes else 0, (others, layers)
    rows, cache, after, left = decode(
      *model, briefs, cache, rows, t, enough, sampler, grammar, setup=setup
    )
    slots += (int(after) - t) * rows.last.size
    t = int(after)
  gathered = len(sizes) < len(setup.tiling.sizes)
  rollout = put_back(rollout, rows) if gathered else rows.rollout
  return mark_cut(rollout, setup=setup) if stop else rollout, slots


def sample(*inputs: Any, **options: Any) -> Rollout:
  """Samples G replies to each brief: `sample_and_count` without the count."""
  return sample_and_count(*inputs, **options)[0]
