"""Scores and reference log-probabilities of a rollout, from one pass.

The pass is of the policy's base, a part of the groups at a time.  That base is
the reference, and a reward model's head may stand on it.

Letters: P briefs, G replies to each, N replies, S rows of packed tokens,
L prompt tokens, T reply tokens, D model.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlcw import Config
from rlcw.models import packing, weights
from rlcw.models.chat import ChatFormat
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.groups import forward_groups, reply_logprobs
from rlcw.models.language_model import LanguageModel
from rlcw.models.packing import Groups
from rlcw.rewards.pooled import read_mask, reply_features
from rlcw.rewards.reward_model import Head, RewardModel
from rlcw.runtime.processes import DataShards
from rlcw.sampling.rollout import Rollout

where = jax.jit(jnp.where)


def read(
  model: LanguageModel,
  reward: RewardModel | None,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  rollout: Rollout,
  config: Config,
  live_P: np.ndarray | None = None,
  *,
  reference: bool,
) -> tuple[jax.Array | None, jax.Array | None]:
  """Returns `score_and_reference` of a rollout.

  Called in all processes; arrays are global.

  Args:
    model: the base.
    reward: its head is read only if it shares the base's decoder.
    prompt_PxL: tokens of the briefs, padded on the right.
    length_P: their lengths in tokens.
    rollout: G replies to each.
    config: of the `grpo` run.
    live_P: groups that are read; others may get zeros.  None: all.
    reference: false for no log-probabilities under the reference.
  """
  shards = DataShards(model.mesh)
  head, mask_PxGxT, end = None, None, None
  gather, local = shards.gather, shards.local_rows
  if reward is not None and reward.shared:
    head = reward.head
    mask_PxGxT = shards.to_global(
      rollout_mask(model.chat, local(rollout), reward.pooling)
    )
    # The average over the text does not depend on what ends it.
    end = reward.end[0] if reward.end and reward.pooling == 'last' else None
  packed = packing.partition(
    np.concatenate(gather(np.asarray(local(length_P)))),
    np.concatenate(gather(np.asarray(local(rollout.length)))),
    prompt_PxL.shape[-1],
    rollout.token.shape[-1],
    part=config.microbatch_groups,
    live_P=live_P,
  )
  if live_P is not None:
    # Other groups only fill a part up: they have no tokens.
    length_P = where(live_P, length_P, 0)
    count_PxG = where(live_P[:, None], rollout.length, 0)
    rollout = rollout.replace(length=count_PxG)
  params = weights.in_memory(model.params, 'device')
  arrays = prompt_PxL, length_P, rollout, mask_PxGxT
  parts = []
  for part in packed.split(arrays, shards.sharding):
    *each, mask = part.arrays
    parts.append(
      score_and_reference(
        params,
        head,
        *each,
        config.temperature,
        mask,
        end,
        config=model.reference,
        width=part.width,
        reference=reference,
      )
    )
  zeros = jax.tree.map(jnp.zeros_like, parts[0])
  parts += [zeros] * (packed.parts - len(parts))
  return packed.join(parts, shards.sharding)


def rollout_mask(
  chat: ChatFormat, rollout: Rollout, pooling: str
) -> np.ndarray:
  """`read_mask` `[P, G, T]` of sampled replies, as arrays on the host."""
  *shape, width = rollout.token.shape
  length_N = np.asarray(rollout.length).reshape(-1)
  token_NxT = np.asarray(rollout.token).reshape(-1, width)
  rows = zip(token_NxT, length_N, strict=True)
  span_Nx2 = np.array([chat.reply_span(ids[:n]) for ids, n in rows])
  return read_mask(span_Nx2, length_N, width, pooling).reshape(*shape, width)


@functools.partial(jax.jit, static_argnames=('config', 'width', 'reference'))
def score_and_reference(
  params: Params,
  head: Head | None,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  rollout: Rollout,
  temperature: jax.Array | float,
  mask_PxGxT: jax.Array | None = None,
  end: jax.Array | int | None = None,
  *,
  config: ModelConfig,
  width: int = 0,
  reference: bool = True,
) -> tuple[jax.Array | None, jax.Array | None]:
  """Scores and reference log-probabilities from one forward pass.

  Args:
    params: of the reference policy.
    head: of the reward model; None for no scores.
    prompt_PxL: ids of the prompts.
    length_P: their lengths.
    rollout: replies to them.
    temperature: of the log-probabilities.
    mask_PxGxT: of `rollout_mask`; None without a head.
    end: the id that the reward model reads where a reply ends, whichever the
      policy chose; None for the policy's.
    config: of the model.
    width: of the packed rows that prompts and replies are read in
      (`forward_groups`).
    reference: false for no log-probabilities.

  Returns:
    Writing scores `[P, G]`, or None without a head; and log-probabilities
    `[P, G, T]` of the tokens at `temperature` under the reference policy, 0 at
    padding, or None.
  """
  token_PxGxT = rollout.token
  if end is not None:
    last = jnp.arange(token_PxGxT.shape[-1]) == rollout.length[..., None] - 1
    token_PxGxT = jnp.where(
      last & rollout.finished[..., None], end, token_PxGxT
    )
  # A token is predicted from those before it and scored with itself, so one
  # pass gives both.  Nothing that predicts depends on a reply's last token.
  groups = Groups(prompt_PxL, length_P, token_PxGxT, rollout.length)
  hidden_SxNxD, layout = forward_groups(config, params, groups, width)
  logp_PxGxT = None
  if reference:
    logp_PxGxT = reply_logprobs(
      config, params, hidden_SxNxD, layout, rollout.token, temperature
    )
  if head is None or mask_PxGxT is None:
    return None, logp_PxGxT
  features_PxGxD = reply_features(layout.of_replies(hidden_SxNxD), mask_PxGxT)
  score_PxG = features_PxGxD @ head.weight + head.bias
  return score_PxG, logp_PxGxT
