"""A reward model that follows the policy: its fit, and in runs of `grpo`."""

import json
import pathlib
from typing import Any

import numpy as np
import pipeline
import pytest
import tiny_grpo
from made_pairs import made_features, made_groups
from stub_judges import Scripted, quoted

from rlcw.data import datasets
from rlcw.rewards.judge import factory
from rlcw.tasks.grpo import refitting
from rlcw.tasks.grpo.refitting import Compared, Pairs
from rlcw.tasks.reward_model import depth

NAN = np.nan


def compared(
  win: list[list[float]], features: Any = (), apart: bool = False
) -> Compared:
  """One group of a step; W is given above the diagonal and below."""
  win_GxG = np.array(win)
  size = len(win_GxG)
  features_GxD = np.array(features or np.zeros((size, 4)))
  return Compared(
    features_GxD[None], win_GxG[None], np.full((1, size), 9), np.array([apart])
  )


def old_pairs(debias: str = 'none', signal: float = 3.0) -> Pairs:
  """Made ones, whose first feature tells the better reply."""
  config: Any = pipeline.shipped('reward_model')
  config.update(debias=debias, steps=100)
  groups = made_groups()
  features_NxRxD = made_features(signal)
  return Pairs(groups, features_NxRxD, config, depth.make_fit(config))


def disputed(count: int, seed: int = 1) -> list[Compared]:
  """Steps of two replies, the better of which the second feature tells."""
  rng = np.random.default_rng(seed)
  features_NxRxD = rng.normal(size=(count, 1, 2, 4))
  features_NxRxD[:, :, 0, 1] += 3.0
  return [
    compared([[NAN, 0.9], [0.1, NAN]], each[0].tolist())
    for each in features_NxRxD
  ]


def test_weights_are_probabilities_of_answered_pairs() -> None:
  win = [[NAN, 0.8, NAN], [0.2, NAN, 0.5], [NAN, 0.5, NAN]]
  one = compared(win)
  np.testing.assert_array_equal(
    one.weight[0], [[0, 0.8, 0], [0.2, 0, 0.5], [0, 0.5, 0]]
  )
  blank = one._replace(length=np.array([[9, 0, 9]]))
  assert not blank.weight.any()


def test_only_decided_pairs_that_are_kept_apart_are_right_or_wrong() -> None:
  win = [[NAN, 0.8, 0.3], [0.2, NAN, 0.5], [0.7, 0.5, NAN]]
  features = [[2.0, 0, 0, 0], [1.0, 0, 0, 0], [1.0, 0, 0, 0]]
  weight_D = np.array([1.0, 0, 0, 0])
  apart = compared(win, features, True)
  assert apart.right(weight_D) == 0.5  # 0 is better than 1, but not than 2
  assert apart.right(-weight_D) == 0.5
  assert apart.right(0 * weight_D) == 0
  assert np.isnan(compared(win, features).right(weight_D))


@pytest.mark.parametrize('share', [0.2, 0.5, 0.9])
@pytest.mark.parametrize('steps', [1, 3])
def test_new_pairs_have_their_share_of_the_weights(
  share: float, steps: int
) -> None:
  old = old_pairs()
  new = [*disputed(steps), compared([[NAN, 1.0], [0.0, NAN]], (), True)]
  capacity = len(old.features) + 9
  features, groups = refitting.joined(
    old.groups, old.features, new, share, capacity
  )
  first = len(old.features)
  assert features.shape == (capacity, 3, 4)
  total = groups.weight.sum()
  assert groups.weight[first:].sum() / total == pytest.approx(share)
  np.testing.assert_array_equal(groups.weight[:first], old.groups.weight)
  ratio_S = groups.weight[first : first + steps, 0, 1]
  np.testing.assert_allclose(
    ratio_S, 9 * groups.weight[first : first + steps, 1, 0], rtol=1e-6
  )
  assert not groups.weight[first + steps :].any()  # kept apart, and none yet
  assert groups.real.sum() == old.groups.real.sum() + 2 * (steps + 1)


def test_a_fit_without_new_pairs_is_that_of_the_old_ones() -> None:
  old = old_pairs()
  alone = refitting.fit(old, [], 0.5, len(old.features))
  roomy = refitting.fit(old, [], 0.5, len(old.features) + 50)
  np.testing.assert_allclose(roomy.weight, alone.weight, rtol=1e-5)


@pytest.mark.parametrize('debias', ['none', 'balance', 'length', 'projection'])
def test_a_head_learns_what_the_judge_prefers(debias: str) -> None:
  old = old_pairs(debias)
  size = len(old.features) + 60
  before = refitting.fit(old, [], 0.5, size)
  after = refitting.fit(old, disputed(40), 0.5, size)
  unseen = disputed(60, seed=2)

  def right(weight_D: np.ndarray) -> float:
    apart = [each._replace(apart=np.array([True])) for each in unseen]
    return float(np.mean([each.right(weight_D) for each in apart]))

  assert right(np.asarray(after.weight)) > 0.9
  assert right(np.asarray(before.weight)) < 0.8
  old_score = old.features @ after.weight
  assert np.mean(old_score[:, 0] > old_score[:, 1]) > 0.8
  scores_M = old.features[old.groups.real] @ after.weight + after.bias
  assert abs(scores_M.mean()) < 1e-6 and scores_M.std() == pytest.approx(
    1, 1e-4
  )


def rain(reply: str) -> float:
  """The share of a reply's words that are one, which features can tell."""
  words = reply.split()
  return words.count('rain') / max(len(words), 1)


def rainier(prompt: Any) -> float:
  """Probability that the first of the two replies shown is better."""
  one = quoted(prompt.row)
  other = quoted(prompt.row.rpartition('Second reply')[2])
  return 0.5 + 0.4 * np.sign(rain(one) - rain(other))


@pytest.fixture
def trained(
  apprentice: pathlib.Path,
  tmp_path: pathlib.Path,
  one_device: None,
  monkeypatch: pytest.MonkeyPatch,
) -> tuple[Any, Scripted]:
  """Settings of a run with its reward model, and the judge that it asks."""
  panel = Scripted(rainier)
  monkeypatch.setattr(factory, 'make_judge', lambda *_, **__: panel)
  config = tiny_grpo.settings(
    apprentice,
    tmp_path,
    writing='reward_model',
    reward_model=str(tmp_path / 'reward_model'),
    steps=4,
    refit__every=2,
    judge__model='scripted',
    monitors__judge_every=1000,
  )
  pairs = [
    {
      'prompt': f'Write {n}.',
      'chosen': 'the sea plum',
      'rejected': 'moss tin the lamp',
      'split': 'heldout' if n % 4 == 0 else 'train',
    }
    for n in range(16)
  ]
  file = tmp_path / 'pairs.jsonl'
  file.write_text('\n'.join(map(json.dumps, pairs)))
  reward = pipeline.tiny_config('reward_model', apprentice, tmp_path)
  reward.preferences = str(file)
  pipeline.run('reward_model', reward, tmp_path / 'reward_model')
  return config, panel


def test_a_run_refits(
  trained: tuple[Any, Scripted], tmp_path: pathlib.Path
) -> None:
  config, panel = trained
  rows = tiny_grpo.run(config, tmp_path / 'run')
  groups = datasets.read_jsonl(tmp_path / 'run' / 'rollouts.jsonl')
  # P=8 groups of 8, each reply with 2 others: 8 pairs in both orders, of which
  # those that look the same are not asked about
  assert [row['refit_pairs'] for row in rows] == [64, None, 64, None]
  asked = [row['judge_questions'] for row in rows]
  assert asked[1] == asked[3] == 0
  assert 64 < asked[2] <= 128 and sum(asked) == len(panel.asked)
  assert all(
    ('against' in reply) == (group['step'] % 2 == 0)
    for group in groups
    for reply in group['replies']
  )
  # at most another width of the rows that the reward model reads
  assert rows[3]['compilations'] - rows[1]['compilations'] <= 1
  files = sorted(f.name for f in (tmp_path / 'run/comparisons').iterdir())
  assert files == ['0.npz', '2.npz']

  def correlation(step: int) -> float:
    replies = [r for g in groups if g['step'] == step for r in g['replies']]
    pairs = [(r['writing'], rain(r['text'])) for r in replies if r['text']]
    return float(np.corrcoef(np.array(pairs).T)[0, 1])

  # what the judge likes, the head does from step 1 on
  assert correlation(1) > correlation(0) + 0.2


@pytest.mark.slow
def test_a_run_that_refits_resumes(
  trained: tuple[Any, Scripted], tmp_path: pathlib.Path
) -> None:
  config, _ = trained
  rows = tiny_grpo.run(config, tmp_path / 'run')
  groups = datasets.read_jsonl(tmp_path / 'run' / 'rollouts.jsonl')
  config.steps = 3
  tiny_grpo.run(config, tmp_path / 'resumed')
  config.steps = 4
  again = tiny_grpo.run(config, tmp_path / 'resumed')
  assert datasets.read_jsonl(tmp_path / 'resumed/rollouts.jsonl') == groups
  for name in ('loss', 'grad_norm', *refitting.METRICS):
    assert [r[name] for r in again] == [r[name] for r in rows]


def test_comparisons_that_are_damaged_are_left_out(
  tmp_path: pathlib.Path, capsys: Any
) -> None:
  file = tmp_path / '0.npz'
  one = compared([[NAN, 0.8], [0.2, NAN]])
  np.savez(file, **one._asdict())
  again = refitting.load(file)
  assert again is not None
  for ours, theirs in zip(one, again, strict=True):
    np.testing.assert_array_equal(ours, theirs)
  file.write_bytes(file.read_bytes()[:100])
  for lost in (file, tmp_path / '2.npz'):
    assert refitting.load(lost) is None
    told = capsys.readouterr()
    assert f'{lost} is left out' in told.out + told.err


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'writing': 'tiny_grpo:length'}, 'expected reward_model in it'),
    ({'judge.model': ''}, 'needs a judge'),
    ({'reward_model': 'a/classifier'}, 'expected a run of the task'),
  ],
)
def test_a_run_that_cannot_refit_is_refused(
  changes: dict[str, Any], words: str, tmp_path: pathlib.Path
) -> None:
  config: Any = pipeline.shipped('grpo')
  config.update_from_flattened_dict(
    {'refit.every': 5, 'judge.model': 'm', **changes}
  )
  with pytest.raises(ValueError, match=rf'^refit\.every=5.*{words}'):
    refitting.check(config)


@pytest.mark.parametrize(
  ('name', 'value'), [('refit.share', 0.3), ('pairs.opponents', 3)]
)
def test_settings_of_no_comparisons_are_refused(
  name: str, value: float
) -> None:
  config: Any = pipeline.shipped('grpo')
  refitting.check(config)
  config.update_from_flattened_dict({name: value})
  with pytest.raises(ValueError, match=rf'{name}={value} needs comparisons'):
    refitting.check(config)
