"""What replies of several runs to the same briefs say about their arms.

Letters: S runs (seeds) of one arm, P briefs, G replies to each.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlcw.evaluation import diversity, heldout, stats, winrate
from rlcw.runtime import metrics

BASE = 'base'


Replies = dict[str, list[list[dict[str, Any]]]]  # by run, [P][G]

# The values, of those of each reply, that arms are compared by.
COMPARED = 'kept_and_better', 'pass_rate', 'writing', 'unseen'


def arm_of(name: str) -> str:
  """The arm of a run, whose name is ARM-SEED, or the base."""
  return name.rpartition('-')[0] or name


def rewarded_violations(groups: Sequence[dict[str, Any]]) -> float:
  """The share of rule-breakers that training made likelier.

  Args:
    groups: of a run's rollouts, of which those count where some reply keeps
      the rules and some does not.

  Returns:
    The share with a positive advantage; NaN where there is no such group.
  """
  found: list[bool] = []
  for group in groups:
    valid = [reply for reply in group['replies'] if reply['valid']]
    broken = [reply for reply in valid if reply['violated']]
    if len(broken) < len(valid):
      found += [reply['advantage'] > 0 for reply in broken]
  return metrics.mean(found)


def measure(
  replies: Replies,
  features: dict[str, np.ndarray],
  rule_ids: Sequence[Sequence[str]],
  language: str,
  best_of: Sequence[str] = (),
) -> dict[str, Any]:
  """All numbers of all arms, and how each does against the others.

  `kept_and_better` is the share of replies that keep every rule and are better
  written, by the scorer that training never saw, than the mean of the base's
  replies to the same brief: the two aims at once.

  Args:
    replies: of each run, and of the base.
    features: `[P, G, D]` of the same.
    rule_ids: of each brief.
    language: of the replies.
    best_of: prefixes of arms, of which the one with the highest
      `kept_and_better` stands for all in `against`: chosen on the very briefs
      that it is then compared on, which favours it.

  Returns:
    `arms`: for each its numbers, its runs' numbers and 95% intervals;
    `against`: for each two arms the differences of COMPARED.
  """
  runs = defaultdict(list)
  for name in replies:
    runs[arm_of(name)].append(name)
  found = {name: per_reply(replies, name) for name in replies}
  drawn, told = {}, {}
  prompts = len(replies[BASE])
  rng = np.random.default_rng(0)
  brief_DxP = stats.draw_groups(rng, prompts)
  centre_D = features[BASE].mean((0, 1))
  for arm, names in runs.items():
    seed_DxS = stats.draw_seeds(rng, len(names))
    told[arm] = {'runs': names, 'numbers': {}, 'by_run': {}, 'intervals': {}}
    for key in found[BASE]:
      value_SxP = np.stack([metrics.mean(found[n][key], 1) for n in names])
      rate_D = stats.bootstrap(value_SxP, brief_DxP, seed_DxS)
      drawn[arm, key] = rate_D
      told[arm]['numbers'][key] = metrics.mean(value_SxP)
      told[arm]['by_run'][key] = [metrics.mean(row) for row in value_SxP]
      told[arm]['intervals'][key] = stats.interval(rate_D)
    told[arm]['numbers'] |= diversity_metrics(
      [replies[n] for n in names],
      [features[n] - centre_D for n in names],
      language,
    )
    if arm != BASE:
      told[arm]['wins'] = wins(replies, names)
    told[arm]['rules'] = rules(replies, names, rule_ids)
    told[arm]['lengths'] = np.concatenate(
      [found[n]['length'].ravel() for n in names]
    )
    told[arm]['spread'] = {
      key: np.nanstd([found[n][key] for n in names])
      for key in ('writing', 'unseen')
    }
  chosen = {
    prefix: max(
      (arm for arm in runs if arm.startswith(prefix)),
      key=lambda arm: told[arm]['numbers']['kept_and_better'],
    )
    for prefix in best_of
    if any(arm.startswith(prefix) for arm in runs)
  }
  return {
    'arms': told,
    'best': chosen,
    'against': pairwise_differences(told, drawn),
  }


def per_reply(replies: Replies, name: str) -> dict[str, np.ndarray]:
  """`[P, G]` of each number that a reply of a run has by itself."""
  found = {key: heldout.values(replies[name], key) for key in heldout.PER_REPLY}
  base_PxG = heldout.values(replies[BASE], 'unseen')
  better_PxG = found['unseen'] > base_PxG.mean(1, keepdims=True)
  kept_PxG = found['pass_rate']
  both = np.where(np.isnan(kept_PxG), np.nan, kept_PxG * better_PxG)
  return {'kept_and_better': both, **found}


def diversity_metrics(
  runs: Sequence[Sequence[Sequence[dict[str, Any]]]],
  features: Sequence[np.ndarray],
  language: str,
) -> dict[str, float]:
  """How alike replies are, of each run by itself, then the mean over runs.

  distinct-n and compression look at all replies of a run, self-BLEU and Vendi
  at those to one brief.

  Args:
    runs: S of `[P][G]` replies.
    features: S of `[P, G, D]`, measured from the base's mean.
    language: of the replies.
  """
  found = defaultdict(list)
  for groups, features_PxGxD in zip(runs, features, strict=True):
    texts = [[reply['text'] for reply in group] for group in groups]
    whole = [text for group in texts for text in group]
    found['distinct1'].append(diversity.distinct(whole, 1, language))
    found['distinct2'].append(diversity.distinct(whole, 2, language))
    found['distinct3'].append(diversity.distinct(whole, 3, language))
    found['compression'].append(diversity.compression_ratio(whole))
    found['self_bleu'].append(diversity.self_bleu(texts, language))
    found['vendi'].append(np.mean([*map(diversity.vendi, features_PxGxD)]))
  return {name: float(np.mean(each)) for name, each in found.items()}


def wins(replies: Replies, names: Sequence[str]) -> dict[str, dict[str, Any]]:
  """How often an arm's reply beats the base's to the same brief.

  Returns:
    `winrate.summary` by the scorer that training never saw, as `unseen`, and,
    where it was asked, by the judge, as `judge`.
  """
  found: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
  for name in names:
    for p, pair in enumerate(zip(replies[name], replies[BASE], strict=True)):
      for ours, theirs in zip(*pair, strict=True):
        longer = len(ours['text']) - len(theirs['text'])
        scores = (
          np.array(nan_if_none(reply['unseen'])) for reply in (ours, theirs)
        )
        found['unseen'].append((float(winrate.scored(*scores)), longer, p))
        if 'won' in ours:
          found['judge'].append((nan_if_none(ours['won']), longer, p))
  return {
    scorer: winrate.summary(*np.array(rows).T) for scorer, rows in found.items()
  }


def nan_if_none(value: float | None) -> float:
  """JSON has no NaN."""
  return np.nan if value is None else value


def rules(
  replies: Replies, names: Sequence[str], rule_ids: Sequence[Sequence[str]]
) -> dict[str, float]:
  """For each rule the share of an arm's replies that keep it."""
  kept = defaultdict(list)
  for name in names:
    for group, ids in zip(replies[name], rule_ids, strict=True):
      for reply in group:
        for rule, verdict in zip(ids, reply['follow'], strict=True):
          kept[rule].append(nan_if_none(verdict))
  return {rule: metrics.mean(verdicts) for rule, verdicts in kept.items()}


def pairwise_differences(
  told: dict[str, Any], drawn: dict[tuple[str, str], np.ndarray]
) -> dict[str, dict[str, dict[str, Any]]]:
  """Differences of every two arms: ours less theirs, and a 95% interval.

  The same briefs are drawn for both, so that what is hard for all is no noise.
  """
  found: dict[str, dict[str, dict[str, Any]]] = {}
  for ours in told:
    found[ours] = {}
    for theirs in told:
      if ours == theirs:
        continue
      found[ours][theirs] = {
        key: {
          'mean': told[ours]['numbers'][key] - told[theirs]['numbers'][key],
          'interval': stats.interval(drawn[ours, key] - drawn[theirs, key]),
        }
        for key in COMPARED
      }
  return found


def pareto_front(points_Nx2: np.ndarray) -> np.ndarray:
  """`[N]`: which points no other is at least as good as in both, and better."""
  as_good_NxN = (points_Nx2[:, None] >= points_Nx2).all(-1)
  better_NxN = (points_Nx2[:, None] > points_Nx2).any(-1)
  return np.logical_not((as_good_NxN & better_NxN).any(0))
