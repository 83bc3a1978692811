"""Advantages of demonstrations: replies that a brief has, beside sampled ones.

A demonstration stands outside its group: it changes neither the mean nor the
std of the group's rewards, and the group's advantages are as without it.
(Source: RIL, arXiv 2510.19307, and POLARIS, arXiv 2606.04095: a reference reply
that is scored like the others, with an advantage clipped at 0.)  With the
group's mixed rewards r, and w of the demonstration,

    A = clip((w − max w_i − mean r) / std r, 0, √G)

where r, as every mixed reward, is relative to the greatest w_i of the group.
A reply of a group of G + 1 is at most √G standard deviations above its mean, so
a demonstration weighs no more than if it had been sampled.  One that breaks a
rule, or has no score, has no advantage.

Letters: K parts of a writing score, P groups, G replies to each.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlcw.losses import masked_mean_std, rounding_std
from rlcw.rewards.mixed import STD_FLOOR, MixedRewards
from rlcw.rewards.rules import text as text_lib

_ORDER = 4  # of the n-grams of `overlap`


def advantages(
  mixed: MixedRewards,
  writing_PxG: jax.Array | np.ndarray,
  shown_P: jax.Array | np.ndarray,
  good_P: jax.Array | np.ndarray,
  scale: str = 'reward_std',
) -> jax.Array:
  """Computes the advantages `[P]` of demonstrations, see the module.

  Args:
    mixed: of the groups, by a mixer that `keeps_writing`.
    writing_PxG: their writing rewards, which were mixed.
    shown_P: the writing reward of each demonstration, in the same unit.
    good_P: false where a brief has no demonstration, or one that breaks a rule
      or has no score: 0.
    scale: `advantage_scale` of a config.  'writing_std' divides by the std of
      the writing rewards instead, 'none' does not divide; the bound remains √G
      stds of r.  Where all r are equal, as by `skip` in a group in which all
      violate, the std of the writing rewards takes the place of theirs.
  """
  best_P = jnp.max(
    jnp.asarray(writing_PxG, jnp.float32),
    axis=1,
    where=mixed.valid,
    initial=-jnp.inf,
  )
  good_P = good_P & jnp.isfinite(shown_P) & jnp.isfinite(best_P)
  mean, std = (x[:, 0] for x in masked_mean_std(mixed.reward, mixed.valid))
  floor_P = mixed.std_floor
  std = jnp.where(std > floor_P, std, jnp.maximum(mixed.writing_std, floor_P))
  above_P = jnp.where(good_P, shown_P - best_P - mean, 0.0)
  above_P = jnp.clip(above_P, 0.0, mixed.reward.shape[1] ** 0.5 * std)
  unit = {
    'reward_std': std,
    'writing_std': jnp.maximum(mixed.writing_std, floor_P),
    'none': 1.0,
  }[scale]
  return above_P / unit


def combine(
  score_KxPxG: np.ndarray | Sequence[np.ndarray],
  weight_K: Sequence[float],
  valid_PxG: np.ndarray,
  shown_KxP: np.ndarray | Sequence[np.ndarray],
  *,
  normalise: bool,
) -> jax.Array:
  """Writing rewards `[P]` of demonstrations, in the unit of `parts.combine`.

  Args:
    score_KxPxG: the parts of the replies' scores, as are the next two.
    weight_K: of the parts.
    valid_PxG: false for replies that are left out of their group.
    shown_KxP: the parts of the demonstrations' scores.
    normalise: subtract each part's mean over the group and divide by its std.
  """
  parts_KxPxG = jnp.asarray(score_KxPxG, jnp.float32)
  known_PxG = jnp.asarray(valid_PxG) & jnp.isfinite(parts_KxPxG).all(0)
  total_P = jnp.zeros(len(known_PxG))
  for weight, score_PxG, part_P in zip(
    weight_K, parts_KxPxG, jnp.asarray(shown_KxP, jnp.float32), strict=True
  ):
    if normalise:
      score_PxG = jnp.where(known_PxG, score_PxG, 0.0)
      mean, std = masked_mean_std(score_PxG, known_PxG)
      # As in `z_scores`: of a constant part there is no standard deviation.
      some = std > rounding_std(score_PxG, known_PxG)
      unit = jnp.where(some, jnp.maximum(std, STD_FLOOR), jnp.inf)
      part_P = ((part_P[:, None] - mean) / unit)[:, 0]
    total_P += weight * part_P
  return total_P


def overlap(reply: str, demonstration: str) -> float:
  """Share of a reply's runs of four words that its demonstration has too.

  Words are compared by `text.fold`; a Han character is a word.  0 for a reply
  of fewer words.
  """
  ours, theirs = (
    text_lib.ngrams(text_lib.words(text_lib.fold(text)), _ORDER)
    for text in (reply, demonstration)
  )
  known = {*theirs}
  return sum(gram in known for gram in ours) / len(ours) if ours else 0.0
