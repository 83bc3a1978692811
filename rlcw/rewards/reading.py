"""One pass of the policy's base over a rollout, a part of its groups at a time.

It gives the log-probabilities under the reference, which is that base, and the
scores of a reward model whose head stands on it.

Letters: P briefs, G replies to each, L prompt tokens, T reply tokens.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlcw import Config
from rlcw.models import packing, weights
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import reward_model
from rlcw.rewards.reward_model import RewardModel
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
  """Returns `reward_model.score_and_reference` of a rollout.

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
      reward_model.rollout_mask(model.chat, local(rollout), reward.pooling)
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
  for part, width in zip(
    packed.split(arrays, shards.sharding), packed.width, strict=True
  ):
    *each, mask = part
    parts.append(
      reward_model.score_and_reference(
        params,
        head,
        *each,
        config.temperature,
        mask,
        end,
        config=model.reference,
        width=width,
        reference=reference,
      )
    )
  zeros = jax.tree.map(jnp.zeros_like, parts[0])
  parts += [zeros] * (packed.parts - len(parts))
  return packed.join(parts, shards.sharding)
