"""Each monitor trips in a run that has its fault, and in no healthy one."""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pipeline import shipped
from stub_judges import Scripted, quoted
from tiny_grpo import run, settings

from rlcw.data import datasets
from rlcw.rewards.judge import factory
from rlcw.runtime import metrics, signals
from rlcw.tasks.grpo import monitors

SETTINGS = shipped('grpo').monitors
SETTINGS.window = 8  # steps


def rows_of(*windows: dict[str, float]) -> list[dict[str, Any]]:
  """Eight equal rows for each."""
  rows = [row for row in windows for _ in range(8)]
  return [{'step': n, **row} for n, row in enumerate(rows)]


def tripped(rows: list[dict[str, Any]]) -> list[tuple[str, int, float]]:
  found = monitors.survey(rows, SETTINGS).warnings
  return [(w['monitor'], w['step'], pytest.approx(w['value'])) for w in found]


# --- By hand ----------------------------------------------------------------


@pytest.mark.parametrize(
  ('before', 'after', 'name', 'steps', 'value'),
  [
    # the mean of 8 rows is over 150 once 5 of them hold 190: 156.25
    ({'length_mean': 100}, {'length_mean': 190}, 'length', 5, 1.5625),
    # and under 100 / 1.5² = 44.4 once 7 hold 35: 43.1
    ({'length_mean': 100}, {'length_mean': 35}, 'length', 7, 0.43125),
    # 0.45 is not below it
    ({'length_mean': 100}, {'length_mean': 45}, None, 0, 0),
    # 0.1 + 3/8 · 0.6 = 0.325
    ({'repetition': 0.1}, {'repetition': 0.7}, 'repetition', 3, 0.225),
    ({'entropy': 2.0}, {'entropy': 0.2}, 'entropy', 5, 0.4375),
    # 0.1 + 4/8 · 0.5 = 0.35
    ({'copied': 0.1}, {'copied': 0.6}, 'copied', 4, 0.25),
    ({'phrase': 0.2}, {'phrase': 0.9}, 'phrase', 4, 0.35),
    ({'marks': 0.01}, {'marks': 0.07}, 'marks', 5, 0.0375),
    (
      {'no_signal_groups': 0.5},
      {'no_signal_groups': 1},
      'no_signal',
      5,
      0.8125,
    ),
    (
      {'writing': 0.0, 'judge_good': 0.9},
      {'writing': 1.0, 'judge_good': 0.4},
      'judge',
      4,
      0.25,
    ),
  ],
)
def test_a_monitor_compares_windows(
  before: dict, after: dict, name: str | None, steps: int, value: float
) -> None:
  rows = rows_of(before, before, after)
  expected = [(name, 15 + steps, pytest.approx(value))] if name else []
  assert tripped(rows) == expected
  assert tripped(rows[: 15 + steps]) == []
  assert tripped(rows_of(before, before, before)) == []


def test_a_run_of_five_steps_trips_nothing_and_says_what_was_off() -> None:
  rng = np.random.default_rng(0)
  read = {m for each in monitors.MONITORS.values() for m in each.metrics}
  rows = [
    {'step': n, **{metric: rng.exponential(9) for metric in sorted(read)}}
    for n in range(5)
  ]
  for row in rows:
    row |= {'judge_good': None, 'eval/gap': None}
  watch = monitors.survey(rows, SETTINGS)
  assert watch.warnings == []
  assert watch.off() == {
    'length': 'it had 5 of the 16 steps it needs',
    'repetition': 'it had 5 of the 16 steps it needs',
    'copied': 'it had 5 of the 16 steps it needs',
    'phrase': 'it had 5 of the 16 steps it needs',
    'marks': 'it had 5 of the 16 steps it needs',
    'judge': 'no judge apart from the writing reward was asked',
    'no_signal': 'it had 5 of the 8 steps it needs',
    'entropy': 'it had 5 of the 16 steps it needs',
    'gap': 'no evaluation had an unseen reward model',
  }


def evaluated(gap: float, writing: float, unseen: float) -> dict[str, Any]:
  """Of an evaluation whose intervals reach 0.1 to either side."""
  values = {'eval/gap': gap, 'eval/writing': writing, 'eval/unseen': unseen}
  ends = {f'{name}_low': value - 0.1 for name, value in values.items()}
  return values | ends


@pytest.mark.parametrize(
  ('last', 'value'),
  [
    ((0.6, 1.2, 0.0), 0.6),
    ((0.6, 1.2, 0.1), 0.6),  # no clear rise
    ((0.6, 1.2, 0.2), None),  # both rose
    ((0.6, 1.05, 0.0), None),  # neither did
    ((0.5, 1.2, 0.0), None),  # not above the threshold
  ],
)
def test_a_score_that_rises_alone_in_an_evaluation_warns_once(
  last: tuple[float, float, float], value: float | None
) -> None:
  rows = [
    {'step': 1, **evaluated(0, 1, 0)},
    {'step': 2},
    {'step': 3, **evaluated(*last)},
    {'step': 5, **evaluated(*last)},
  ]
  expected = [] if value is None else [('gap', 3, pytest.approx(value))]
  assert tripped(rows) == expected
  watch = monitors.survey(rows[:2], SETTINGS)
  assert watch.off()['gap'] == 'it had 1 of the 2 evaluations it needs'


def test_it_warns_again_only_after_a_window_without() -> None:
  calm, mad = {'no_signal_groups': 0.0}, {'no_signal_groups': 1.0}
  rows = rows_of(calm, mad, mad, calm, calm, mad)
  # over 3/4 from the 7th mad row on: steps 14 to 24, and then from 46
  assert tripped(rows) == [('no_signal', 14, 0.875), ('no_signal', 46, 0.875)]
  flickering = [mad] * 7 + [calm, mad] * 20
  rows = [{'step': n, **row} for n, row in enumerate(flickering)]
  assert tripped(rows) == [('no_signal', 7, 0.875)]


def test_steps_without_a_verdict_do_not_count() -> None:
  good, bad = (
    {'writing': 0.0, 'judge_good': 0.9},
    {
      'writing': 1.0,
      'judge_good': 0.1,
    },
  )
  asked = rows_of(good, bad)
  rows = [
    {'step': 2 * row['step'] + n, **(row if not n else {'judge_good': None})}
    for row in asked
    for n in range(2)
  ]
  rows = [row | {'step': n} for n, row in enumerate(rows)]
  assert tripped(rows) == [('judge', 30, 0.8)]
  assert 'judge' in monitors.survey(rows[:30], SETTINGS).off()


@pytest.mark.parametrize(
  ('writing', 'good'),
  [
    ([0.0, 0.0], [0.9, 0.1]),  # the writing reward did not rise
    ([1.0, 0.0], [0.9, 0.1]),
    ([0.0, 1.0], [0.1, 0.9]),
    ([0.0, 1.0], [0.5, 0.4]),  # not by much
  ],
)
def test_a_judge_alone_proves_nothing(writing: list, good: list) -> None:
  rows = rows_of(
    *(
      {'writing': w, 'judge_good': g}
      for w, g in zip(writing, good, strict=True)
    )
  )
  assert tripped(rows) == []


def test_what_does_not_stand_out_of_the_noise_is_none() -> None:
  """A fall of 0.35 where steps differ by 0.4: 1.64 standard errors."""
  rows = rows_of({'writing': 0.0}, {'writing': 1.0})
  for row in rows:
    sign = 1 if row['step'] % 2 else -1
    row['judge_good'] = (0.7 if row['step'] < 8 else 0.35) + 0.4 * sign
  assert tripped(rows) == []
  for row in rows:
    sign = 1 if row['step'] % 2 else -1
    row['judge_good'] -= 0.3 * sign
  assert tripped(rows) == [('judge', 15, 0.35)]


def test_a_resumed_writer_shows_all_rows_that_it_keeps(
  tmp_path: pathlib.Path,
) -> None:
  seen: list[dict[str, Any]] = []
  with metrics.Writer(tmp_path, watch=seen.append) as write:
    for step in range(3):
      write(step, {'a': np.float32(0.1), 'b': np.nan})
  whole, seen[:] = list(seen), []
  with metrics.Writer(tmp_path, 2, seen.append) as write:
    assert seen == whole[:2]
    write(2, {'a': np.float32(0.1), 'b': np.nan})
  assert seen == whole
  assert whole[2] == {'step': 2, 'a': pytest.approx(0.1), 'b': None}


# --- Runs that have the fault -----------------------------------------------


Train = Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]


@pytest.fixture
def train(
  apprentice: pathlib.Path,
  tmp_path: pathlib.Path,
  one_device: None,
) -> Train:
  """A function that runs `grpo` on a writing reward alone, with a window of 4.

  It returns the summary and the metrics.
  """

  def trained(
    writing: str, name: str = 'grpo', steps: int = 20, **changes: Any
  ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    config = settings(
      apprentice,
      tmp_path,
      writing=f'tiny_grpo:{writing}',
      mixing__name='writing',
      steps=steps,
      **{'monitors__window': 4} | changes,
    )
    rows = run(config, tmp_path / name)
    return json.loads((tmp_path / name / 'summary.json').read_text()), rows

  return trained


def names(summary: dict[str, Any]) -> set[str]:
  return {warning['monitor'] for warning in summary['warnings']}


@pytest.mark.slow
def test_a_reward_for_length_that_a_judge_dislikes(
  train: Train, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
  def brevity(prompt: Any) -> float:
    return 0.9 if len(quoted(prompt.row).split()) < 8 else 0.1

  panel = Scripted(brevity)
  monkeypatch.setattr(factory, 'make_judge', lambda *_, **__: panel)
  summary, rows = train('length', monitors__window=2)
  told = capsys.readouterr().out
  assert {'length', 'judge'} <= names(summary)
  assert 'judge' not in summary['unmonitored']
  for warning in summary['warnings']:
    assert f'({warning["monitor"]}, step {warning["step"]}): ' in told
    assert warning['text'] in told
  # a reply to each of 8 briefs, in every second step; counted as a cost
  assert len(panel.asked) == 10 * 8
  assert [row['judge_good'] is None for row in rows] == [False, True] * 10
  assert [row['judge_questions'] for row in rows] == [8, 0] * 10
  # once more, in two parts
  train('length', 'resumed', 11, monitors__window=2)
  resumed, again = train('length', 'resumed', monitors__window=2)
  assert resumed['warnings'] == summary['warnings']
  assert resumed['unmonitored'] == summary['unmonitored']
  assert [r['judge_good'] for r in again] == [r['judge_good'] for r in rows]


@pytest.mark.slow
def test_a_run_that_a_warning_stopped_goes_on_as_if_undisturbed(
  train: Train, tmp_path: pathlib.Path, capsys: Any
) -> None:
  changes = {'monitors__window': 2, 'steps': 10}
  whole, rows = train('length', 'whole', **changes)
  first = whole['warnings'][0]
  assert first['step'] < 8  # else there is nothing left to stop
  capsys.readouterr()
  with pytest.raises(signals.Halted) as halted:
    train('length', **changes, monitors__stop=True)
  assert halted.value.code == signals.HALTED == 76
  stopped = f'stopped by monitor {first["monitor"]} at step {first["step"]}: '
  assert str(halted.value).startswith(stopped)
  assert 's after the warning: step ' in capsys.readouterr().out
  folder = tmp_path / 'grpo'
  assert not (folder / 'summary.json').exists()
  done = len(datasets.read_jsonl(folder / 'metrics.jsonl'))
  assert first['step'] < done <= first['step'] + 2
  while not (folder / 'summary.json').exists():
    with contextlib.suppress(signals.Halted):
      train('length', **changes, monitors__stop=True)
  summary = json.loads((folder / 'summary.json').read_text())
  assert summary['warnings'] == whole['warnings']
  stops = datasets.read_jsonl(folder / 'stops.jsonl')
  assert stops == [w for w in whole['warnings'] if w['step'] < 8]
  again = datasets.read_jsonl(folder / 'metrics.jsonl')
  for name in ('loss', 'writing', 'kl', 'copied', 'phrase', 'marks'):
    assert [r[name] for r in again] == [r[name] for r in rows], name


@pytest.mark.slow
def test_a_reward_for_one_word(train: Train) -> None:
  summary, rows = train('plums')
  assert {'repetition', 'entropy', 'length'} <= names(summary)
  assert rows[-1]['repetition'] > 0.3 > rows[0]['repetition']
  assert set(summary['unmonitored']) == {'judge', 'gap'}


@pytest.mark.slow
def test_a_reward_that_is_the_same_for_all(train: Train) -> None:
  summary, rows = train('nothing')
  assert [w['step'] for w in summary['warnings']] == [3]
  assert names(summary) == {'no_signal'}
  assert {row['no_signal_groups'] for row in rows} == {1.0}


@pytest.mark.slow
def test_a_healthy_run_trips_nothing(train: Train, capsys: Any) -> None:
  """It learns to choose its words, and is not disturbed."""
  summary, rows = train('choice', steps=16, learning_rate=1e-3)
  assert summary['warnings'] == []
  assert 'warning' not in capsys.readouterr().out
  writing = [row['writing'] for row in rows]
  assert np.mean(writing[-5:]) > np.mean(writing[:5]) + 0.05
