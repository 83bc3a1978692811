"""Statistics of arms, from the replies of their runs to the same briefs.

Letters: S runs (seeds) of one arm, P briefs, G replies to each brief, D
features of a reply, N points.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlcw.data.characters import blank
from rlcw.evaluation import diversity, heldout, intervals, stats, winrate
from rlcw.runtime import metrics

BASE = 'base'


Replies = dict[str, list[list[dict[str, Any]]]]  # by run, [P][G]

# Numbers whose differences between arms are reported; `kept_and_better` is
# computed from two of them (see `per_reply`).
COMPARED = 'kept_and_better', 'pass_rate', 'writing', 'unseen'
# Numbers between 0 and 1.
SHARES = 'kept_and_better', *heldout.SHARES


def arm_of(name: str) -> str:
  """Arm of a run named ARM-SEED; the base's name is its own arm."""
  return name.rpartition('-')[0] or name


def rewarded_violations(groups: Sequence[dict[str, Any]]) -> float:
  """Share of rule-breaking replies that training made more likely.

  Args:
    groups: records of a run's `rollouts.jsonl`.  Only mixed groups count, in
      which some valid reply keeps the rules and some valid reply breaks one.

  Returns:
    The share of the rule-breaking replies whose advantage is positive; NaN
    where there is no mixed group.
  """
  positive: list[bool] = []
  for group in groups:
    valid = [reply for reply in group['replies'] if reply['valid']]
    broken = [reply for reply in valid if reply['violated']]
    # In a group of rule-breakers only, advantages compare them with each
    # other, so some are positive whatever the reward.
    if len(broken) < len(valid):
      positive += [reply['advantage'] > 0 for reply in broken]
  return metrics.mean(positive)


def measure(
  replies: Replies,
  features: dict[str, np.ndarray],
  rule_ids: Sequence[Sequence[str]],
  language: str,
  best_of: Sequence[str] = (),
  group_P: np.ndarray | None = None,
) -> dict[str, Any]:
  """Computes all numbers of all arms, and their pairwise differences.

  `kept_and_better` combines the two aims: the share of replies that keep every
  rule and are better written than the mean of the base's replies to the same
  brief, by the reward model that training never used.

  Args:
    replies: of each run, and of the base.
    features: `[P, G, D]` of each run's and the base's replies.
    rule_ids: the ids of each brief's rules, P of them.
    language: of the replies.
    best_of: prefixes of arms.  For each, `best` names the arm with the highest
      `kept_and_better`.  It is chosen on the same briefs that it is compared
      on, which favours it.
    group_P: number of each brief's prompt (`heldout.prompt_groups`); None if
      all differ.

  Returns:
    `arms`: for each arm its runs, numbers, numbers by run, 95% intervals, and
    `over`, the chance that these include (`intervals.scope`);
    `best`: for each prefix of `best_of` that occurs, the chosen arm;
    `against`: for each ordered pair of arms the differences of COMPARED;
    `diversity_words`: the words of each run that diversity is measured on.
  """
  runs = defaultdict(list)
  for name in replies:
    runs[arm_of(name)].append(name)
  found = {name: per_reply(replies, name) for name in replies}
  flat = [[r['text'] for g in groups for r in g] for groups in replies.values()]
  texts, words = diversity.cut(flat, language)
  texts = dict(zip(replies, texts, strict=True))
  centre_D = features[BASE].mean((0, 1))
  if group_P is None:
    group_P = np.arange(len(rule_ids))
  table, by_arm = {}, {}
  for arm, names in runs.items():
    each = [found[name] for name in names]
    values = {
      key: np.stack([metrics.mean(run[key], 1) for run in each])  # [S, P]
      for key in each[0]
    }
    table |= {(arm, key): value_SxP for key, value_SxP in values.items()}
    by_arm[arm] = {
      'runs': names,
      'over': intervals.scope(*seeds(runs, arm)),
      **estimates(values, group_P),
      'rules': rules(replies, names, rule_ids),
      'lengths': np.concatenate([run['length'].ravel() for run in each]),
      'spread': {
        key: stats.spread([run[key] for run in each])
        for key in ('writing', 'unseen')
      },
    }
    by_arm[arm]['numbers'] |= diversity_metrics(
      [texts[n] for n in names],
      [features[n] - centre_D for n in names],
      language,
    )
    if arm != BASE:
      by_arm[arm]['wins'] = wins(replies, names, group_P)
  return {
    'arms': by_arm,
    'best': best_arms(by_arm, best_of),
    'against': pairwise_differences(runs, table, group_P),
    'diversity_words': words,
  }


def best_arms(
  arms: dict[str, dict[str, Any]], prefixes: Sequence[str]
) -> dict[str, str]:
  """Chooses the best arm of each family, such as one arm per fixed weight.

  Args:
    arms: statistics by arm.
    prefixes: of the names of the arms of a family.

  Returns:
    The chosen arm by prefix, of those that occur.
  """
  families = {
    prefix: [arm for arm in arms if arm.startswith(prefix)]
    for prefix in prefixes
  }
  return {
    prefix: max(members, key=lambda arm: rank(arms[arm]))
    for prefix, members in families.items()
    if members
  }


def rank(arm: dict[str, Any]) -> float:
  """Number by which the best arm is chosen; −∞ where it is not known."""
  both = arm['numbers']['kept_and_better']
  return both if np.isfinite(both) else -np.inf


def estimates(
  values: dict[str, np.ndarray], group_P: np.ndarray
) -> dict[str, dict[str, Any]]:
  """Means of an arm's numbers.

  Args:
    values: `[S, P]` of each number, the mean of each run's replies to a brief.
    group_P: number of each brief's prompt.

  Returns:
    `numbers`, their 95% `intervals`, and the means `by_run`.
  """
  numbers, ends, by_run = {}, {}, {}
  for key, value_SxP in values.items():
    estimate = intervals.share if key in SHARES else intervals.mean
    numbers[key], *ends[key] = estimate(*intervals.by_group(value_SxP, group_P))
    by_run[key] = [metrics.mean(row) for row in value_SxP]
  return {'numbers': numbers, 'intervals': ends, 'by_run': by_run}


def seeds(runs: dict[str, list[str]], *arms: str) -> list[int]:
  """Number of seeds of each of `arms` that was trained, for the scope.

  The base is the same in every comparison: no chance of training is in it.
  """
  return [len(runs[arm]) for arm in arms if arm != BASE]


def per_reply(replies: Replies, name: str) -> dict[str, np.ndarray]:
  """`[P, G]` of each of `heldout.PER_REPLY`, and of `kept_and_better`."""
  numbers = {
    key: heldout.values(replies[name], key) for key in heldout.PER_REPLY
  }
  base_PxG = heldout.values(replies[BASE], 'unseen')
  both = heldout.kept_and_better(replies[name], metrics.mean(base_PxG, 1))
  if name == BASE and base_PxG.shape[1] == 1:
    both[:] = np.nan  # a single reply is not better than itself
  return {'kept_and_better': both, **numbers}


def diversity_metrics(
  runs: Sequence[Sequence[str]],
  features: Sequence[np.ndarray],
  language: str,
) -> dict[str, float]:
  """Diversity of each run's replies, averaged over an arm's S runs.

  Distinct-n and the compression ratio are computed over all replies of a run,
  self-BLEU and the Vendi score over the replies to each brief.

  Args:
    runs: S lists of the P · G replies, cut to lengths that all arms share.
    features: S arrays `[P, G, D]` of the whole replies, less the mean of the
      base's features, so that cosines compare directions from it.
    language: of the replies.
  """
  by_run = defaultdict(list)
  for texts, features_PxGxD in zip(runs, features, strict=True):
    count = features_PxGxD.shape[1]
    groups = [texts[n : n + count] for n in range(0, len(texts), count)]
    for n in (1, 2, 3):
      by_run[f'distinct{n}'].append(diversity.distinct(texts, n, language))
    by_run['compression'].append(diversity.compression_ratio(texts))
    by_run['self_bleu'].append(diversity.self_bleu(groups, language))
    by_run['vendi'].append(np.mean([*map(diversity.vendi, features_PxGxD)]))
  return {name: float(np.mean(each)) for name, each in by_run.items()}


def wins(
  replies: Replies, names: Sequence[str], group_P: np.ndarray
) -> dict[str, dict[str, Any]]:
  """Win rates of an arm's replies over the base's replies to the same briefs.

  Args:
    replies: of each run, and of the base.
    names: the arm's runs.
    group_P: number of each brief's prompt.

  Returns:
    `winrate.summary` by the reward model that training never used, as
    `unseen`, and by the judge, where there was one, as `judge`.
  """
  outcomes: dict[str, list[tuple[float, float, int, int]]] = defaultdict(list)
  for s, name in enumerate(names):
    for p, *pair in zip(group_P, replies[name], replies[BASE], strict=True):
      # The g-th replies of both were sampled with the same random key.
      for ours, theirs in zip(*pair, strict=True):
        longer = len(ours['text']) - len(theirs['text'])
        scores = (
          np.array(nan_if_none(reply['unseen'])) for reply in (ours, theirs)
        )
        won = float(winrate.scored(*scores))
        # As by the judge, a blank reply loses to any other.
        if np.isfinite(won) and blank(ours['text']) != blank(theirs['text']):
          won = float(blank(theirs['text']))
        outcomes['unseen'].append((won, longer, p, s))
        # the judge reads only some replies to each brief
        if 'won' in ours:
          outcomes['judge'].append((nan_if_none(ours['won']), longer, p, s))
  return {
    scorer: winrate.summary(*np.array(rows).T)
    for scorer, rows in outcomes.items()
  }


def nan_if_none(value: float | None) -> float:
  """Turns null back into NaN, which JSON cannot express."""
  return np.nan if value is None else value


def rules(
  replies: Replies, names: Sequence[str], rule_ids: Sequence[Sequence[str]]
) -> dict[str, float]:
  """Share of an arm's replies that keep each rule; NaN without a verdict."""
  kept = defaultdict(list)
  for name in names:
    for group, ids in zip(replies[name], rule_ids, strict=True):
      for reply in group:
        for rule, verdict in zip(ids, reply['follow'], strict=True):
          kept[rule].append(nan_if_none(verdict))
  return {rule: metrics.mean(verdicts) for rule, verdicts in kept.items()}


def pairwise_differences(
  runs: dict[str, list[str]],
  table: dict[tuple[str, str], np.ndarray],
  group_P: np.ndarray,
) -> dict[str, dict[str, dict[str, Any]]]:
  """Differences of every two arms: ours less theirs, with 95% intervals.

  Args:
    runs: the names of each arm's runs.
    table: `[S, P]` of each arm and number.  All arms answer the same briefs, so
      the difficulty of a brief cancels.
    group_P: number of each brief's prompt.

  Returns:
    `mean`, `interval` and `over`, the chance that the interval includes, by
    ours, theirs and the name of the number.
  """
  differences: dict[str, dict[str, dict[str, Any]]] = {}
  for ours in runs:
    differences[ours] = {}
    for theirs in runs:
      if ours == theirs:
        continue
      over = intervals.scope(*seeds(runs, ours, theirs))
      differences[ours][theirs] = {}
      for key in COMPARED:
        limit = 1 if key in SHARES else np.inf
        gap, *ends = intervals.difference(
          table[ours, key], table[theirs, key], limit, group_P
        )
        differences[ours][theirs][key] = {
          'mean': gap,
          'interval': ends,
          'over': over,
        }
  return differences


def pareto_front(points_Nx2: np.ndarray) -> np.ndarray:
  """Mask `[N]` of the Pareto-optimal points, where higher is better in both.

  A point is left out if another is at least as good in both coordinates and
  better in one.
  """
  as_good_NxN = (points_Nx2[:, None] >= points_Nx2).all(-1)
  better_NxN = (points_Nx2[:, None] > points_Nx2).any(-1)
  return np.logical_not((as_good_NxN & better_NxN).any(0))
