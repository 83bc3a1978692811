"""Evaluation during training: numbers by hand, the best, patience, resuming."""

import json
import pathlib
import re
import shutil
import time
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import metrics_page
import numpy as np
import optax
import pipeline
import pytest
import tiny_grpo
from ml_collections import ConfigDict

from rlcw import losses, train
from rlcw.data import datasets
from rlcw.evaluation import heldout, plots
from rlcw.models import language_model
from rlcw.rewards.briefs import Brief
from rlcw.runtime import checkpoint, metrics, runs
from rlcw.runtime.mesh import make_mesh, replicated
from rlcw.runtime.signals import Stopped
from rlcw.tasks.grpo import evaluation, measures, run
from rlcw.tasks.grpo.evaluation import Evaluator
from rlcw.tasks.grpo.measures import Best
from rlcw.tasks.report import run as report

# --- Settings ---------------------------------------------------------------


@pytest.mark.parametrize(
  ('writing', 'second'),
  [
    ('reward_model', True),
    ('reward_model + 0.5*rubric', True),
    ('judge', False),
    ('judge_logit', False),
    ('reward_model + judge_logit', False),
    ('pairs', False),
  ],
)
def test_a_judge_that_scores_the_writing_is_no_second_opinion(
  writing: str, second: bool
) -> None:
  config = pipeline.shipped('grpo')
  config.writing = writing
  assert 'judge_good' not in measures.names(config)  # there is no judge
  config.judge.model = 'x'
  assert ('judge_good' in measures.names(config)) == second


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'keep': 'best:eval/both'}, "keep='best:eval/both' needs evaluations"),
    ({'patience': 2}, 'patience=2 needs evaluations: expected eval_every'),
    ({'initial_eval': True}, 'initial_eval=True needs evaluations'),
    ({'eval.unseen': 'a'}, "eval.unseen='a' needs evaluations.*eval.unseen=''"),
    ({'eval.briefs': 5}, 'eval.briefs=5 needs evaluations'),
    ({'eval.batch_size': 8}, 'eval.batch_size=8 needs .*eval.batch_size=32'),
    (
      {'steps': 3, 'eval_every': 4, 'keep': 'best:eval/both'},
      'there are 3 steps, of which none would be evaluated',
    ),
    ({'eval_every': 2, 'keep': 'best'}, "keep='best'; expected newest or"),
    (
      {'eval_every': 2, 'keep': 'best:eval/bot'},
      "did you mean 'best:eval/both'",
    ),
    ({'eval_every': 2, 'keep': 'best:eval/length'}, 'expected newest'),
    ({'eval_every': 2, 'keep': 'best:eval/unseen'}, 'with eval.unseen'),
    (
      {'eval_every': 2, 'eval.unseen': 'a/./b', 'reward_model': 'a/b'},
      'a/./b is the reward model of training',
    ),
    (
      {'steps': 3, 'eval_every': 4, 'eval.unseen': 'a'},
      'none would be evaluated',
    ),
    ({'eval_every': 2, 'keep': 'best:eval/judge_good'}, 'with a judge'),
    ({'eval_every': 2, 'patience': 3}, 'needs a metric.*keep=best:'),
    (
      {'eval_every': 2, 'eval.replies_per_brief': 4},
      'eval.temperature=0 all replies to a brief are equal',
    ),
  ],
)
def test_settings_that_do_not_fit_are_named(
  changes: dict[str, Any], message: str
) -> None:
  config = pipeline.shipped('grpo')
  config.update_from_flattened_dict(changes)
  with pytest.raises(ValueError, match=message):
    evaluation.check(config)


def test_settings_that_fit_are_accepted() -> None:
  config = pipeline.shipped('grpo')
  evaluation.check(config)
  config.update_from_flattened_dict(
    {
      'eval_every': 2,
      'keep': 'best:eval/gap',
      'patience': 1,
      'eval.unseen': 'elsewhere/unseen',
      'eval.replies_per_brief': 4,
      'eval.temperature': 0.7,
    }
  )
  evaluation.check(config)
  evaluation.check(ConfigDict({}))  # of an earlier version


def test_without_held_out_briefs_nothing_is_loaded(
  tmp_path: pathlib.Path,
) -> None:
  config = tiny_grpo.settings(tmp_path / 'no model', tmp_path, eval_every=2)
  with pytest.raises(ValueError, match='eval_every=2 needs held-out briefs'):
    run.run(config, tmp_path)


def test_a_limit_draws_the_same_briefs_by_the_seed() -> None:
  config: Any = pipeline.shipped('grpo')
  every = evaluation.load_briefs(config)
  config.eval.briefs = 7
  some = evaluation.load_briefs(config)
  assert len(some) == 7 and some == evaluation.load_briefs(config)
  assert some == [brief for brief in every if brief in some]
  config.seed = 1
  assert evaluation.load_briefs(config) != some
  config.eval.briefs = len(every) + 1
  assert evaluation.load_briefs(config) == every


@pytest.mark.parametrize(
  ('briefs', 'most', 'size'),
  [(60, 32, 30), (60, 60, 60), (3, 32, 3), (7, 3, 3)],
)
def test_batches_are_about_equal(briefs: int, most: int, size: int) -> None:
  config: Any = SimpleNamespace(eval=SimpleNamespace(batch_size=most))
  assert evaluation.batch_size(config, briefs) == size


def test_every_metric_is_documented() -> None:
  config = pipeline.shipped('grpo')
  names = ('eval.unseen', 'judge.model')
  config.update_from_flattened_dict(dict.fromkeys(names, 'x'))
  page = metrics_page.PAGE.read_text('utf-8')
  section = page.split('## Evaluation while it trains')[1].split('\n## ')[0]
  found = set(re.findall(r'`eval/(\w+)`', section))
  assert found - {'judge_questions'} == set(measures.names(config))
  assert '`seconds_eval`' in section


# --- Metrics ----------------------------------------------------------------


def reply(writing: float, strict: float = 1.0, **more: Any) -> dict[str, Any]:
  fields = {'text': 'a', 'follow': [], 'finished': True, 'length': 4}
  return fields | {'writing': writing, 'strict': strict} | more


def test_both_aims_are_those_of_a_comparison() -> None:
  """Every rule kept, and better than the base's mean for the brief."""
  base = [[reply(9, unseen=1.0), reply(9, unseen=3.0)], [reply(0, unseen=5.0)]]
  base[1] *= 2
  groups = [
    [reply(0, unseen=2.5), reply(0, 0.0, unseen=9.0)],  # 1, 0: breaks a rule
    [reply(0, unseen=5.0), reply(0, np.nan, unseen=6.0)],  # 0: no better, –
  ]
  found = measures.measure(groups, base, ['both', 'pass_rate', 'unseen'])
  assert found['both'] == pytest.approx((1 / 2 + 0) / 2)
  assert found['pass_rate'] == pytest.approx((1 / 2 + 1) / 2)
  assert found['unseen'] == pytest.approx((5.75 + 5.5) / 2)
  # without an unseen scorer the writing score decides
  found = measures.measure(groups, base, ['both', 'writing'])
  assert (found['both'], found['writing']) == (0, 0)


def test_intervals_are_over_briefs() -> None:
  base = [[reply(0)] for _ in range(3)]
  found = measures.measure([[reply(x)] for x in (1, 2, 6)], base, ['writing'])
  # s² = 7, t(2) = 4.3027
  half = 4.302653 * (7 / 3) ** 0.5
  ends = found['writing_low'], found['writing_high']
  assert ends == pytest.approx((3 - half, 3 + half))
  for cut in (1.0, 0.0):
    groups = [[reply(0, finished=cut == 0)] for _ in range(3)]
    found = measures.measure(groups, base, ['truncated'])
    assert found['truncated'] == cut
    assert found['truncated_low'] < found['truncated_high']  # a share's width


def test_intervals_are_over_prompts() -> None:
  once, twice = (
    [[reply(x)] for x in (1, 2, 6) for _ in range(count)] for count in (1, 2)
  )
  found = measures.measure(once, once, ['writing'])
  same = measures.measure(twice, twice, ['writing'], np.repeat(range(3), 2))
  assert same == pytest.approx(found)
  apart = measures.measure(twice, twice, ['writing'])
  assert apart['writing_low'] > found['writing_low']


def test_the_gap_compares_gains_on_different_scales() -> None:
  # standard deviations of 10 and 0.1
  base = [[reply(0, unseen=0.1)], [reply(20, unseen=0.3)]]
  groups = [[reply(20, unseen=0.2)], [reply(30, unseen=0.2)]]
  found = measures.measure(groups, base, ['gap'])
  # gains of 2 and 1 in the one, 1 and −1 in the other
  assert found['gap'] == pytest.approx(1.5)
  assert measures.measure(base, base, ['gap'])['gap'] == 0
  same = [[reply(5, unseen=0.1)], [reply(5, unseen=0.3)]]
  assert np.isnan(measures.measure(groups, same, ['gap'])['gap'])
  # Equal scores whose standard deviation is not 0, by rounding.
  same = [[reply(0.1, unseen=0.1)] for _ in range(3)]
  ours = [[reply(each, unseen=0.2)] for each in (0.2, 0.3, 0.1)]
  assert np.isnan(measures.measure(ours, same, ['gap'])['gap'])


def survey(keep: str, *rows: dict[str, Any]) -> Best:
  best = Best(keep)
  for step, row in enumerate(rows):
    best.see({'step': step, **row})
  return best


def both(value: float | None) -> dict[str, Any]:
  return {'eval/both': value}


def test_the_best_is_the_first_of_the_highest() -> None:
  rows = {}, both(0.2), {}, both(None), both(0.5), both(0.5), both(0.1)
  best = survey('best:eval/both', *rows)
  assert (best.step, best.value, best.since) == (5, 0.5, 2)
  assert best.ends(3) == '' and best.ends(0) == ''
  assert best.ends(2) == (
    'no better eval/both in 2 evaluations; the best was 0.5 after 5 steps'
  )


def test_of_a_gap_the_lowest_is_the_best() -> None:
  rows = [{'eval/gap': value} for value in (0.4, 0.1, 0.3)]
  assert survey('best:eval/gap', *rows).step == 2


def test_the_model_before_training_may_be_the_best() -> None:
  rows = {'initial_eval/both': 0.3, 'eval/both': 0.2}, both(0.1), both(0.3)
  best = survey('best:eval/both', *rows)
  assert (best.step, best.value, best.since) == (0, 0.3, 3)


def test_without_any_value_there_is_no_best() -> None:
  best = survey('best:eval/both', both(None), both(None))
  assert best.step is None
  assert best.ends(2) == 'no better eval/both in 2 evaluations'
  assert survey('newest', both(0.1)).step is None


# --- In a run ---------------------------------------------------------------

# The parameter falls from 16 by halves: 8, 4, 2, 1, … after each step.
BRIEFS = [Brief(f'brief {n}', 'Write.', (), ()) for n in range(3)]
STEPS = 8


def settings(**changes: Any) -> ConfigDict:
  config = pipeline.shipped('grpo')
  small = {'eval_every': 2, 'keep': 'best:eval/writing', 'loggers': ()}
  config.update_from_flattened_dict(small | changes)
  evaluation.check(config)
  return config


def train_scalar(
  workdir: pathlib.Path,
  config: ConfigDict,
  scores: dict[float, float],
  *,
  steps: int = STEPS,
  asked: list[float] | None = None,
) -> dict[str, Any]:
  """Trains one number, whose replies get the scores by its value.

  Returns:
    The summary.
  """

  def answer(params: Any) -> tuple[Any, dict[str, float]]:
    value = float(params['x'])
    if asked is not None:
      asked.append(value)
    # Briefs differ, by as much each time.
    groups = [[reply(scores.get(value, 0.0) + n)] for n in range(3)]
    return groups, {'judge_questions': 3}

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    minibatch = train.Minibatch([{'target': jnp.zeros(2)}])
    return train.Batch([minibatch], {}, time.perf_counter())

  def loss(params: Any, _: Any, arrays: Any) -> dict[str, losses.Ratio]:
    error = jnp.square(params['x'] - arrays['target'])
    return {'loss': losses.Ratio(error.sum(), jnp.float32(error.size))}

  workdir.mkdir(exist_ok=True)
  mesh = make_mesh(devices=jax.devices()[:1])
  params = jax.device_put({'x': jnp.float32(16.0)}, replicated(mesh))
  evaluator = Evaluator(answer, BRIEFS, config, workdir)
  evaluator.begin(params)
  train.fit(
    params,
    next_batch,
    loss,
    optax.sgd(0.25),
    mesh,
    name='test',
    steps=steps,
    workdir=workdir,
    checkpoint_every=3,
    watch=evaluator.best.see,
    config=config,
    evaluation=evaluator,
  )
  return evaluator.summary(datasets.read_jsonl(workdir / 'metrics.jsonl'))


def best_saved(workdir: pathlib.Path) -> float:
  """The parameter in the folder of the best, the only one there."""
  folder = workdir / 'best' / 'checkpoints'
  assert len([path for path in folder.iterdir() if path.name.isdecimal()]) == 1
  reader = checkpoint.Checkpoints(folder, read_only=True)
  like = {'x': jax.device_put(jnp.float32(0), jax.devices()[0])}
  return float(reader.restore(params=like)['params']['x'])


def record(workdir: pathlib.Path) -> tuple[list[dict[str, Any]], bytes, float]:
  """All that a resumed run must reproduce, without times."""
  rows = [
    {k: v for k, v in row.items() if 'second' not in k and k != 'compilations'}
    for row in datasets.read_jsonl(workdir / 'metrics.jsonl')
  ]
  log = (workdir / 'evaluations.jsonl').read_bytes()
  return rows, log, best_saved(workdir)


# After 2, 4, 6 and 8 steps.
RISE_AND_FALL = {4.0: 1.0, 1.0: 3.0, 0.25: 2.0, 0.0625: 0.0}


def test_an_evaluation_is_in_the_row_of_its_step(
  tmp_path: pathlib.Path,
) -> None:
  asked: list[float] = []
  summary = train_scalar(tmp_path, settings(), RISE_AND_FALL, asked=asked)
  assert asked == [16, 4, 1, 0.25, 0.0625]  # the base once, in any case
  rows = datasets.read_jsonl(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [*range(STEPS)]
  found = [row.get('eval/writing') for row in rows]
  assert found == [None, 2, None, 4, None, 3, None, 1]
  assert all('seconds_eval' in row for row in rows[1::2])
  assert rows[1]['eval/judge_questions'] == 3
  assert rows[1]['eval/writing_low'] < 2 < rows[1]['eval/writing_high']
  # what the base cost, but not its numbers
  first = {k: v for k, v in rows[0].items() if k.startswith('initial')}
  assert first == {'initial_eval/judge_questions': 3}
  assert summary == {
    'best': {'metric': 'eval/writing', 'value': 4.0, 'step': 4},
    'ended': '',
  }
  assert best_saved(tmp_path) == 1
  lines = datasets.read_jsonl(tmp_path / 'evaluations.jsonl')
  assert [line['step'] for line in lines] == [
    step for step in (-1, 1, 3, 5, 7) for _ in range(3)
  ]
  assert [line['brief_id'] for line in lines[:3]] == [b.id for b in BRIEFS]
  assert lines[3]['replies'][0]['writing'] == 1.0


def test_an_evaluation_is_no_part_of_a_step(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def slow(evaluator: Evaluator, *_: Any) -> dict[str, Any]:
    time.sleep(0.3)
    return {'seconds_eval': 0.3}

  monkeypatch.setattr(Evaluator, '__call__', slow)
  train_scalar(tmp_path, settings(keep='newest'), {}, steps=4)
  rows = datasets.read_jsonl(tmp_path / 'metrics.jsonl')
  assert all(row['seconds_step'] < 0.3 for row in rows[1:])


def test_without_the_best_nothing_else_is_kept(tmp_path: pathlib.Path) -> None:
  config = settings(keep='newest')
  summary = train_scalar(tmp_path, config, RISE_AND_FALL)
  assert summary == {'best': None, 'ended': ''}
  assert not (tmp_path / 'best').exists()


def test_a_later_best_of_another_try_gives_way(tmp_path: pathlib.Path) -> None:
  # Best after six steps; the try that goes on after three has none so late.
  train_scalar(tmp_path, settings(), {0.25: 9.0}, steps=6)
  assert best_saved(tmp_path) == 0.25
  checkpoints = checkpoint.Checkpoints(tmp_path / 'checkpoints')
  checkpoints.drop_from(6)
  assert checkpoints.latest() == 3
  checkpoints.close()
  train_scalar(tmp_path, settings(), {1.0: 8.0}, steps=4)
  assert best_saved(tmp_path) == 1


def test_a_run_that_begins_anew_keeps_nothing_of_another(
  tmp_path: pathlib.Path,
) -> None:
  train_scalar(tmp_path, settings(), {1.0: 9.0})
  assert best_saved(tmp_path) == 1
  shutil.rmtree(tmp_path / 'checkpoints')
  for log in ('metrics.jsonl', 'evaluations.jsonl'):
    (tmp_path / log).unlink()
  train_scalar(tmp_path, settings(), {4.0: 9.0})
  assert best_saved(tmp_path) == 4


def test_patience_ends_a_run_saved(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  summary = train_scalar(tmp_path, settings(patience=1), RISE_AND_FALL)
  text = 'no better eval/writing in 1 evaluations; the best was 4 after 4 steps'
  assert summary['ended'] == text
  assert f'test: ended after 6 steps: {text}' in capsys.readouterr().out
  assert runs.newest_step(tmp_path) == 6
  assert best_saved(tmp_path) == 1
  # It ends at the same place again, also where more steps were asked for.
  asked: list[float] = []
  again = train_scalar(
    tmp_path, settings(patience=1), RISE_AND_FALL, steps=20, asked=asked
  )
  assert again == summary and asked == []
  assert len(datasets.read_jsonl(tmp_path / 'metrics.jsonl')) == 6


def test_the_base_may_stay_the_best(tmp_path: pathlib.Path) -> None:
  config = settings(initial_eval=True, patience=2)
  summary = train_scalar(tmp_path, config, {16.0: 9.0})
  assert summary['best'] == {'metric': 'eval/writing', 'value': 10, 'step': 0}
  assert summary['ended'].startswith('no better eval/writing in 2 evaluations')
  assert best_saved(tmp_path) == 16
  row = datasets.read_jsonl(tmp_path / 'metrics.jsonl')[0]
  assert row['initial_eval/writing'] == 10


class Killed(BaseException):
  """In place of a `kill -9`."""


@pytest.mark.parametrize(
  ('target', 'name', 'nth'),
  [
    # between the replies and the row, the row and the checkpoint, the
    # checkpoint and the best, and within the best's
    (Evaluator, '__call__', 4),
    (Evaluator, 'select', 3),
    (Evaluator, '_keep', 2),
    (checkpoint.Checkpoints, 'close', 1),
    (checkpoint.Checkpoints, 'save', 4),
    (evaluation.files, 'append_jsonl', 9),
  ],
)
@pytest.mark.parametrize(
  'after', [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_killed_run_ends_as_an_undisturbed_one(
  target: Any,
  name: str,
  nth: int,
  after: bool,
  tmp_path: pathlib.Path,
  undisturbed: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  original, calls = getattr(target, name), [0]

  def fatal(*args: Any, **kwargs: Any) -> Any:
    calls[0] += 1
    if calls[0] == nth and not after:
      raise Killed
    result = original(*args, **kwargs)
    if calls[0] == nth:
      raise Killed
    return result

  config = settings(initial_eval=True, patience=2)
  with monkeypatch.context() as patch:
    patch.setattr(target, name, fatal)
    with pytest.raises(Killed):
      train_scalar(tmp_path / 'run', config, RISE_AND_FALL)
  if (tmp_path / 'run' / 'best' / 'checkpoints').exists():
    found = [*(tmp_path / 'run' / 'best' / 'checkpoints').glob('[0-9]*')]
    assert not found or best_saved(tmp_path / 'run') in (16, 4, 1)
  train_scalar(tmp_path / 'run', config, RISE_AND_FALL)
  assert record(tmp_path / 'run') == record(undisturbed)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp('undisturbed') / 'run'
  config = settings(initial_eval=True, patience=2)
  summary = train_scalar(folder, config, RISE_AND_FALL)
  assert 'in 2 evaluations' in summary['ended']
  return folder


def test_a_full_disk_leaves_the_best_before(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  from orbax import checkpoint as ocp

  save = ocp.CheckpointManager.save

  def full(manager: Any, step: int, *args: Any, **kwargs: Any) -> Any:
    if step == 4 and 'best' in str(manager.directory):
      raise OSError(28, 'No space left on device')
    return save(manager, step, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(ocp.CheckpointManager, 'save', full)
    with pytest.raises(OSError, match='best/checkpoints.*No space left'):
      train_scalar(tmp_path, settings(), RISE_AND_FALL)
  assert best_saved(tmp_path) == 4
  train_scalar(tmp_path, settings(), RISE_AND_FALL)
  assert best_saved(tmp_path) == 1


def test_a_stop_in_an_evaluation_repeats_the_steps_before_it(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  def stop(*_: Any) -> Any:
    raise Stopped('SIGTERM')

  config = settings()
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation, 'measure', stop)
    with pytest.raises(Stopped):
      train_scalar(tmp_path / 'run', config, RISE_AND_FALL)
  assert 'stopped by SIGTERM, in an evaluation' in capsys.readouterr().out
  assert not (tmp_path / 'run' / 'summary.json').exists()
  train_scalar(tmp_path / 'run', config, RISE_AND_FALL)
  train_scalar(tmp_path / 'whole', config, RISE_AND_FALL)
  assert record(tmp_path / 'run') == record(tmp_path / 'whole')


# --- In a report ------------------------------------------------------------


def test_an_evaluation_is_drawn_where_its_parameters_are() -> None:
  """After n + 1 updates in the row of step n; before training at 0."""
  nan = np.nan
  columns = {
    'step': np.arange(4.0),
    'initial_eval/both': np.array([0.1, nan, nan, nan]),
    'initial_eval/both_low': np.array([0.0, nan, nan, nan]),
    'initial_eval/both_high': np.array([0.2, nan, nan, nan]),
    'eval/both': np.array([nan, 0.3, nan, 0.5]),
    'eval/both_low': np.array([nan, 0.2, nan, nan]),
    'eval/both_high': np.array([nan, 0.4, nan, nan]),
  }
  np.testing.assert_array_equal(
    plots.evaluations(columns, 'eval/both'),
    [[0, 0.1, 0.0, 0.2], [2, 0.3, 0.2, 0.4], [4, 0.5, nan, nan]],
  )
  assert plots.evaluations(columns, '').shape == (0, 4)
  (panel,) = (p for p in plots.EVALUATED if p.evaluated == 'eval/both')
  assert plots.draw_curves([panel], columns).startswith(b'\x89PNG')


def test_the_briefs_that_changed_most_are_shown() -> None:
  lines = [
    {
      'step': step,
      'brief_id': f'{n}',
      'prompt': 'x',
      'replies': [reply(n * (step + 1))],
    }
    for step in (-1, 4, 9, 14)
    for n in range(6)
  ]
  picked = report.pick_evaluations(lines)
  assert [view['brief_id'] for view in picked] == ['5', '4', '3', '2']
  assert [step for step, _ in picked[0]['columns']] == [0, 10, 15]
  assert report.pick_evaluations([]) == []
  # Two briefs of a user may have one id.
  twins = [
    {'step': step, 'brief_id': 'x', 'prompt': prompt, 'replies': [reply(score)]}
    for step, *scores in ((-1, 0, 1), (4, 5, 2))
    for prompt, score in zip('AB', scores, strict=True)
  ]
  picked = report.pick_evaluations(twins)
  assert [view['prompt'] for view in picked] == ['A', 'B']
  assert [len(view['columns']) for view in picked] == [2, 2]


# --- On a tiny model --------------------------------------------------------


COMPILED: list[int] = []  # programs, in each evaluation of `trained`


@pytest.fixture(scope='module')
def trained(
  apprentice: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A folder with a run that is evaluated, and one that is not."""
  folder = tmp_path_factory.mktemp('trained')
  answer = heldout.answer

  def counting(*args: Any, **kwargs: Any) -> Any:
    compiled = metrics.Compilations()
    found = answer(*args, **kwargs)
    COMPILED.append(compiled.count)
    return found

  with pipeline.one_device(), pytest.MonkeyPatch.context() as patch:
    patch.setattr(heldout, 'answer', counting)
    make_run(apprentice, folder, 'grpo', eval_every=2, keep='best:eval/writing')
    make_run(apprentice, folder, 'plain')
  return folder


def make_run(
  model: pathlib.Path, folder: pathlib.Path, name: str, **changes: Any
) -> None:
  config = tiny_grpo.settings(
    model,
    folder,
    writing='tiny_grpo:variety',
    steps=6,
    checkpoint_every=4,
    eval__temperature=1.0,
    eval__replies_per_brief=2,
    eval__batch_size=4,
    **changes,
  )
  file = folder / 'briefs.jsonl'
  lines = [json.loads(line) for line in file.read_text().splitlines()]
  for n, line in enumerate(lines):
    line['split'] = 'heldout' if n % 3 == 0 else 'train'
  file.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  pipeline.run('grpo', config, folder / name)


@pytest.mark.slow
def test_evaluations_compile_once_and_leave_training_alone(
  trained: pathlib.Path,
) -> None:
  assert COMPILED[0] > 0 and COMPILED[2:] == [0, 0]
  plain, ours = trained / 'plain', trained / 'grpo'
  assert not (plain / 'evaluations.jsonl').exists()
  logs = [(folder / 'rollouts.jsonl').read_bytes() for folder in (plain, ours)]
  assert logs[0] == logs[1]
  rows = datasets.read_jsonl(ours / 'metrics.jsonl')
  assert [bool('eval/both' in row) for row in rows] == [False, True] * 3
  lines = datasets.read_jsonl(ours / 'evaluations.jsonl')
  assert len(lines) == 4 * 6 and len(lines[0]['replies']) == 2
  rollouts = datasets.read_jsonl(ours / 'rollouts.jsonl')
  assert {*rollouts[0]['replies'][0]} < {*lines[0]['replies'][0]}
  for row in rows[1::2]:
    of_step = [line for line in lines if line['step'] == row['step']]
    scores = [r['writing'] for line in of_step for r in line['replies']]
    assert row['eval/writing'] == pytest.approx(np.mean(scores))
  summary = json.loads((ours / 'summary.json').read_text())
  times = [r['seconds_step'] + r.get('seconds_eval', 0) for r in rows]
  assert summary['wall_seconds'] == pytest.approx(sum(times))


@pytest.mark.slow
def test_the_best_is_a_model_to_whoever_reads_one(
  trained: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  best = json.loads((trained / 'grpo' / 'summary.json').read_text())['best']
  folder = trained / 'grpo' / 'best'
  assert runs.state(folder) == runs.State(str(folder), best['step'], 6, True)
  config = pipeline.tiny_config('evaluate', trained, tmp_path)
  config.run = str(folder)
  pipeline.run('evaluate', config, tmp_path / 'evaluate')
  # A copy elsewhere, without the run.
  shutil.copytree(folder, tmp_path / 'best')
  model = language_model.load(
    str(tmp_path / 'best'), make_mesh(devices=jax.devices()[:1])
  )
  assert model.source == str(tmp_path / 'best')
  config = pipeline.shipped('report')
  config.evaluate = str(tmp_path / 'evaluate')
  pipeline.run('report', config, tmp_path / 'report')
  page = (tmp_path / 'report' / 'report.html').read_text()
  assert 'Held-out briefs while it trained' in page
  assert f'at step {best["step"]} of 6' in page
