"""Reward model, GRPO, evaluation and report, end to end on a tiny model."""

import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import metrics_page
import numpy as np
import pytest
from metrics_page import documented
from ml_collections import ConfigDict
from pipeline import ROOT, command, few_pairs, run, shipped, tiny_config
from stub_judges import Scripted

from rlcw.data import datasets
from rlcw.evaluation import heldout, winrate
from rlcw.rewards import briefs, mixing, text_scores
from rlcw.rewards.constraints import IFBENCH
from rlcw.rewards.judge import factory
from rlcw.runtime import files
from rlcw.runtime.command import MISTAKE
from rlcw.runtime.mesh import make_mesh
from rlcw.runtime.settings import read as read_settings
from rlcw.runtime.signals import STOPPED, Stopped
from rlcw.tasks import evaluate
from rlcw.tasks.compare import scorers
from rlcw.tasks.compare.benchmarks import benchmark
from rlcw.tasks.compare.runs import check_judges, differences, find

TRAIN, HELD_OUT = 24, 12  # briefs


def few_briefs(folder: pathlib.Path) -> str:
  """Some of those that are shipped, as each takes time to write and read."""
  file = folder / 'briefs.jsonl'
  for split, count in (('train', TRAIN), ('heldout', HELD_OUT)):
    english = (
      record
      for _, record in datasets.read_records('@briefs.jsonl')
      if (record['split'], record['language']) == (split, 'en')
    )
    for record in itertools.islice(english, count):
      files.append_jsonl(file, record)
  return str(file)


@pytest.fixture(scope='session')
def runs(
  tiny_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A folder with the four finished runs."""
  folder = tmp_path_factory.mktemp('runs')
  data = {'preferences': few_pairs(folder), 'briefs': few_briefs(folder)}
  for task, name in (
    ('reward_model', 'preferences'),
    ('grpo', 'briefs'),
    ('evaluate', ''),
    ('report', ''),
  ):
    config = tiny_config(task, tiny_folder, folder)
    if name:
      config[name] = data[name]
    workdir = folder if task == 'report' else folder / task
    run(task, config, workdir)
  return folder


def test_every_run_leaves_its_files(runs: pathlib.Path) -> None:
  for name in ('reward_model', 'grpo'):
    for file in ('config.json', 'metrics.jsonl', 'summary.json', 'tensorboard'):
      assert (runs / name / file).exists(), (name, file)
  summary = json.loads((runs / 'summary.json').read_text())
  for key in (
    'pass_rate_base',
    'pass_rate_trained',
    'writing_base',
    'writing_trained',
    'max_violator_advantage',
    'steps',
    'wall_seconds',
  ):
    assert key in summary
  page = (runs / 'report.html').read_text()
  assert '</html>' in page and 'No monitor of reward hacking tripped' in page


def test_every_step_is_told_once_and_nothing_recompiles(
  runs: pathlib.Path,
) -> None:
  rows = datasets.read_jsonl(runs / 'grpo' / 'metrics.jsonl')
  assert [row['step'] for row in rows] == list(range(5))
  counts = [row['compilations'] for row in rows]
  # A rollout's programs, score, mix, zeros, accumulate, add, apply, and those
  # that split a batch into parts.
  assert counts[0] <= 25
  # two for each new width, and a rollout's for each new size
  assert counts[1] - counts[0] <= 8
  # the first save, after step 1, has programs of Orbax's own
  assert counts[4] - counts[3] in (0, 2)
  assert all(row['sampler_gap'] < 1e-4 for row in rows)
  assert rows[0]['kl'] == pytest.approx(0, abs=4e-5)
  assert rows[-1]['kl'] > 1e-4
  phases = ('seconds_rollout', 'seconds_scoring', 'seconds_update')
  for row in rows:
    assert sum(row[p] for p in phases) == pytest.approx(row['seconds_step'])


def test_every_metric_is_documented_and_no_other(runs: pathlib.Path) -> None:
  grpo, reward_model = (
    {*datasets.read_jsonl(runs / task / 'metrics.jsonl')[-1]}
    for task in ('grpo', 'reward_model')
  )
  also = metrics_page.JUDGE | metrics_page.OPTIONAL
  assert documented('grpo') == grpo | also
  # the tasks that the section is of, the loss and what is of other tokens there
  # are named again in it
  own = documented('sft and reward_model') - {'sft', 'reward_model'}
  assert own == reward_model - grpo | {'loss', 'tokens_per_second'}
  summary = json.loads((runs / 'evaluate' / 'summary.json').read_text())
  won_N = np.array([1.0, 0.0])
  compared = winrate.summary(won_N, won_N, np.arange(2))
  assert documented('evaluate') == metrics_page.stems(
    {*summary, *compared} - metrics_page.EVERY
  )


def test_the_diary_holds_every_reply_and_no_violator_is_rewarded(
  runs: pathlib.Path,
) -> None:
  groups = datasets.read_jsonl(runs / 'grpo' / 'rollouts.jsonl')
  assert len(groups) == 5 * 8
  for group in groups:
    assert len(group['replies']) == 4
    for reply in group['replies']:
      kept = all(reply['follow']) and reply['finished']
      assert reply['violated'] == (not kept)
      if reply['violated']:
        assert reply['advantage'] < 0  # in every group, under `suppress`
      if not reply['valid']:
        assert reply['advantage'] == 0


def test_the_evaluation_is_of_held_out_briefs_only(runs: pathlib.Path) -> None:
  rows = datasets.read_jsonl(runs / 'evaluate' / 'evaluation.jsonl')
  held_out = briefs.load_briefs(runs / 'briefs.jsonl', split='heldout')
  assert [row['brief_id'] for row in rows] == [b.id for b in held_out]
  assert len(held_out) == HELD_OUT
  summary = json.loads((runs / 'evaluate' / 'summary.json').read_text())
  passed = [all(reply['follow']) for row in rows for reply in row['trained']]
  assert summary['pass_rate_trained'] == pytest.approx(np.mean(passed))


@pytest.fixture(scope='session')
def kill_lab(
  runs: pathlib.Path, tiny_folder: pathlib.Path, tmp_path_factory
) -> pathlib.Path:
  """A folder with the configuration and an undisturbed run."""
  lab = tmp_path_factory.mktemp('kills')
  config = tiny_config('grpo', tiny_folder, runs)
  (lab / 'config.json').write_text(config.to_json())
  assert drive(lab, 'undisturbed', 'nowhere') == 0
  return lab


def drive(lab: pathlib.Path, name: str, point: str) -> int:
  """Runs `grpo` in a process of its own that dies at `point`."""
  environment = os.environ | {
    'XLA_FLAGS': '--xla_backend_optimization_level=0',  # and one device
    'XLA_CACHE': str(lab / 'xla'),
    'PYTHONPATH': str(ROOT),
  }
  command = [
    sys.executable,
    str(ROOT / 'tests' / 'pipeline.py'),
    str(lab / 'config.json'),
    str(lab / name),
    point,
  ]
  done = subprocess.run(command, env=environment, capture_output=True)
  if done.returncode not in (0, -signal.SIGKILL):
    raise AssertionError(done.stderr.decode()[-3000:])
  return done.returncode


def final_state(run_folder: pathlib.Path) -> list[np.ndarray]:
  import jax
  from orbax import checkpoint as ocp

  step = run_folder / 'checkpoints' / '5'
  return [
    np.asarray(leaf)
    for item in ('params', 'rest')
    for leaf in jax.tree.leaves(
      ocp.StandardCheckpointer().restore((step / item).absolute())
    )
  ]


@pytest.mark.parametrize(
  'point',
  [
    pytest.param('scoring', marks=pytest.mark.slow),
    pytest.param('diary', marks=pytest.mark.slow),
    pytest.param('saving', marks=pytest.mark.slow),
    pytest.param('saved', marks=pytest.mark.slow),
  ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(
  kill_lab: pathlib.Path, point: str
) -> None:
  """Bit for bit: parameters, moments, replies and metrics."""
  assert drive(kill_lab, point, point) == -signal.SIGKILL
  assert not (kill_lab / point / 'summary.json').exists()
  assert drive(kill_lab, point, 'nowhere') == 0
  whole = final_state(kill_lab / 'undisturbed')
  again = final_state(kill_lab / point)
  assert len(whole) == len(again) > 20
  for x, y in zip(whole, again, strict=True):
    assert x.tobytes() == y.tobytes()
  diaries = [
    (kill_lab / name / 'rollouts.jsonl').read_text()
    for name in ('undisturbed', point)
  ]
  assert diaries[0] == diaries[1]
  rows = [
    datasets.read_jsonl(kill_lab / name / 'metrics.jsonl')
    for name in ('undisturbed', point)
  ]
  for x, y in zip(*rows, strict=True):
    same = {k for k in x if 'second' not in k and k != 'compilations'}
    assert {k: x[k] for k in same} == {k: y[k] for k in same}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'microbatch_groups': 3}, r'over the 8 devices.*expected one of \[8\]'),
    ({'prompts_per_step': 12}, 'expected a multiple of 8'),
    ({'mixing.margin': 0.0}, r'mixing\.margin=0\.0; expected .* 0\.001'),
    ({'mixing.all_violating': 'none'}, 'suppress.*rank.*skip'),
    ({'ratio': 'word'}, 'token.*sequence'),
    ({'aggregation': 'mean'}, 'token_mean'),
    ({'temperature': 0.0}, 'temperature=0.0; expected a number of at least'),
    ({'checkpoint_every': 0}, 'expected an integer of at least 1'),
    (
      {'monitors.length': 0.0},
      'monitors.length=0.0; expected a number of at least 1',
    ),
    ({'group_size': 1}, 'expected an integer of at least 2'),
    ({'mixing.name': 'best'}, 'rlmr.*writing.*linear'),
    ({'advantage_scale': 'big'}, 'reward_std'),
    (
      {'advantage_scale': 'writing_std', 'mixing.name': 'linear'},
      'not in units .* expected .*rlmr',
    ),
    ({'reward_model': '/nowhere'}, 'run the reward_model task'),
    ({'briefs': '@none.jsonl'}, '@briefs.jsonl'),
    ({'language': 'fr'}, "'fr'; found en: 280, zh: 140"),
  ],
)
def test_a_setting_that_makes_no_sense_is_named(
  runs: pathlib.Path,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  change: dict,
  message: str,
) -> None:
  config = tiny_config('grpo', tiny_folder, runs)
  config.update_from_flattened_dict(change)
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    run('grpo', config, tmp_path)


@pytest.mark.parametrize('name', list(mixing.MIXERS))
def test_every_mixer_gives_advantages(
  runs: pathlib.Path, tiny_folder: pathlib.Path, name: str
) -> None:
  from rlcw.tasks.grpo.step import make_mix

  config = tiny_config('grpo', tiny_folder, runs)
  config.mixing.name = name
  rng = np.random.default_rng(0)
  writing_PxG = rng.normal(size=(3, 4)).astype('float32')
  writing_PxG[0, 1] = np.nan  # could not be scored
  violated_PxG = rng.random((3, 4)) < 0.5
  valid_PxG = np.isfinite(writing_PxG)
  mixed = make_mix(config)(writing_PxG, violated_PxG, valid_PxG)
  assert np.isfinite(mixed.advantage).all()
  assert mixed.advantage[0, 1] == 0
  assert not mixed.rewards.valid[0, 1]


@pytest.fixture(scope='session')
def arms(
  runs: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """The run once more as other seeds and another arm, and a second scorer."""
  folder = tmp_path_factory.mktemp('arms')
  for name in ('rlmr-0', 'rlmr-1', 'linear_2-0'):
    shutil.copytree(runs / 'grpo', folder / 'runs' / name)
  settings = json.loads((runs / 'grpo' / 'config.json').read_text())
  other = settings | {'seed': settings['seed'] + 1}
  files.write_json(folder / 'runs' / 'rlmr-1' / 'config.json', other)
  settings['mixing']['name'] = 'linear'
  files.write_json(folder / 'runs' / 'linear_2-0' / 'config.json', settings)
  replies = [
    {'valid': True, 'violated': violated, 'advantage': advantage}
    for violated, advantage in ((True, 1.0), (True, -2.0), (False, 1.0))
  ]
  diary = folder / 'runs' / 'linear_2-0' / 'rollouts.jsonl'
  diary.write_bytes(files.json_line({'replies': replies}))
  for name, told in (
    ('rlmr-0', {'warnings': [{'step': 3, 'text': 'replies grow.'}]}),
    ('linear_2-0', {}),
  ):
    files.write_json(folder / 'runs' / name / 'summary.json', told)
  shutil.copytree(runs / 'reward_model', folder / 'unseen')
  for arm, kept in (('base', 1), ('rlmr', 3)):
    verified = folder / 'ifeval' / arm
    verified.mkdir(parents=True)
    told = {'mode': 'benchmark', 'prompt_strict': kept / 8, 'prompt_loose': 0.5}
    told |= {'instruction_strict': 0.25, 'instruction_loose': 0.75}
    files.write_json(verified / 'summary.json', told)
    rows = (
      {'key': key, 'strict': {'follow_instruction_list': [key < kept]}}
      for key in range(8)
    )
    (verified / 'verdicts.jsonl').write_bytes(
      b''.join(map(files.json_line, rows))
    )
  return folder


def test_runs_are_compared_and_added(
  runs: pathlib.Path, arms: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  panel = Scripted(lambda prompt: 0.8)  # always the first: a tie
  monkeypatch.setattr(factory, 'make_judge', lambda *_, **__: panel)
  config, workdir = shipped('compare'), arms / 'comparison'
  config.runs = str(arms / 'runs' / 'rlmr-*')
  config.unseen = str(runs / 'reward_model')
  with pytest.raises(ValueError, match='is the reward model of training'):
    run('compare', config, workdir)
  config.unseen = str(arms / 'unseen')
  config.benchmark = str(arms / 'ifeval' / '*')
  config.preferences = str(runs / 'pairs.jsonl')
  config.replies_per_brief = 2
  first = run('compare', config, workdir)
  assert [*first['arms']] == ['base', 'rlmr'] and first['best'] == {}

  def written(name: str) -> int:
    return (workdir / 'replies' / f'{name}.jsonl').stat().st_mtime_ns

  kept, stale = written('rlmr-0'), written('rlmr-1')
  # of another content, and no younger than the replies
  longer = arms / 'runs' / 'rlmr-1' / 'config.json'
  longer.write_text(longer.read_text() + '\n')
  os.utime(longer, ns=(stale - 1_000_000, stale - 1_000_000))
  config.runs = str(arms / 'runs' / '*')
  summary = run('compare', config, workdir)
  assert written('rlmr-0') == kept and written('rlmr-1') > stale
  found = summary['arms']
  assert [*found] == ['base', 'linear_2', 'rlmr']
  assert {*found['rlmr']['numbers']} == documented('compare')
  assert found['rlmr']['runs'] == ['rlmr-0', 'rlmr-1']
  assert summary['best'] == {'linear': 'linear_2'}
  for arm in ('linear_2', 'rlmr'):
    wins = found[arm]['wins']
    replies = HELD_OUT * 2 * len(found[arm]['runs'])
    assert wins['unseen']['compared'] == replies
    assert wins['judge']['compared'] == replies / 2  # one of two is judged
    assert wins['judge']['ties'] == 1
    assert found[arm]['numbers']['kl'] > 1e-3
  assert found['base']['numbers']['kl'] == pytest.approx(0, abs=1e-3)
  assert found['linear_2']['numbers']['raised'] == 0.5
  assert np.isnan(found['base']['numbers']['raised'])  # base is not trained
  # they are one run, under three names
  gain = summary['against']['rlmr']['linear_2']['unseen']
  assert gain['mean'] == 0
  assert gain['interval'] == pytest.approx([0, 0], abs=1e-9)
  assert summary['benchmark']['base']['gain']['high'] == 0
  gain = summary['benchmark']['rlmr']['gain']
  assert gain['mean'] == 0.25 and gain['low'] < 0 and gain['high'] > 0.5
  assert gain['over'] == 'briefs only'
  page = (workdir / 'report.html').read_text()
  assert (
    '</html>' in page
    and '12.5%' in page
    and '+25.0%' in page
    and 'linear_2' in page
  )
  assert summary['warnings']['rlmr-0'] == ['step 3: replies grow.']
  assert 'step 3: replies grow.' in page
  assert summary['warnings']['linear_2-0'] is None
  for name in ('plane', 'bands', 'drift'):
    assert (workdir / f'{name}.png').read_bytes().startswith(b'\x89PNG')
  json.loads((workdir / 'summary.json').read_text())


def test_a_comparison_says_what_evaluate_says(
  runs: pathlib.Path, arms: pathlib.Path
) -> None:
  """The same keys and the same scorer: the same replies, the same verdicts."""
  told = json.loads((runs / 'evaluate' / 'summary.json').read_text())
  rows = datasets.read_jsonl(runs / 'evaluate' / 'evaluation.jsonl')
  for arm, name in (('base', 'base'), ('trained', 'rlmr-0')):
    lines = datasets.read_jsonl(
      arms / 'comparison' / 'replies' / f'{name}.jsonl'
    )
    texts = [[r['text'] for r in line['replies']] for line in lines]
    assert texts == [[r['text'] for r in row[arm]] for row in rows]
    strict = [r['strict'] for line in lines for r in line['replies']]
    assert np.mean(strict) == pytest.approx(told[f'pass_rate_{arm}'])


@pytest.mark.parametrize('task', ['evaluate', 'compare'])
def test_a_judge_that_gave_a_second_opinion_is_not_loaded_again(
  task: str, runs: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: Any
) -> None:
  folder = tmp_path / 'rlmr-0'
  shutil.copytree(runs / 'grpo', folder)
  shutil.copytree(runs / 'reward_model', tmp_path / 'unseen')
  settings = json.loads((folder / 'config.json').read_text())
  settings['judge']['model'] = 'nowhere'
  files.write_json(folder / 'config.json', settings)
  loaded = []

  def make_judge(settings: Any, *_: Any, **__: Any) -> None:
    loaded.append(settings.model)
    if len(loaded) == 2:  # that of training, and the task's own
      raise RuntimeError('enough')

  monkeypatch.setattr(factory, 'make_judge', make_judge)
  config = shipped(task)
  config.update(
    {'run': str(folder)}
    if task == 'evaluate'
    else {'runs': str(folder), 'unseen': str(tmp_path / 'unseen')}
  )
  with pytest.raises(RuntimeError, match='enough'):
    run(task, config, tmp_path / task)
  assert 'nowhere' not in loaded


def test_an_evaluation_that_was_stopped_keeps_its_settings(
  runs: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Else replies of one seed would be compared with those of another."""

  def stop(file: pathlib.Path, *_: Any) -> Any:
    files.write_json(file, {})
    raise Stopped('SIGTERM')

  monkeypatch.setattr(evaluate, 'stored', stop)
  named = '--config=evaluate', f'--config.run={runs / "grpo"}'
  workdir = f'--workdir={tmp_path}'
  for seed, status in ((1, STOPPED), (1, STOPPED), (7, MISTAKE)):
    told = command(monkeypatch, *named, workdir, f'--config.seed={seed}')
    assert told == status


def test_an_evaluation_without_its_summary_samples_nothing_anew(
  runs: pathlib.Path,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """As one that was killed, or found the disk full, after its last reply."""
  shutil.copytree(runs / 'evaluate', tmp_path, dirs_exist_ok=True)
  told = files.read_json(tmp_path / 'summary.json')
  (tmp_path / 'summary.json').unlink()
  monkeypatch.delattr(heldout, 'answer')
  run('evaluate', tiny_config('evaluate', tiny_folder, runs), tmp_path)
  again = files.read_json(tmp_path / 'summary.json')
  for name in ('pass_rate_difference', 'writing_difference', 'kl_trained'):
    assert again[name] == told[name]


def test_a_scorer_s_tie_counts_half(monkeypatch: pytest.MonkeyPatch) -> None:
  decoder = SimpleNamespace(mesh=make_mesh())
  eyes: Any = SimpleNamespace(
    unseen=SimpleNamespace(decoder=decoder), judge=None
  )

  def ties(_, prompts: list[str], *others: Any) -> np.ndarray:
    return np.zeros((len(prompts), 2))

  monkeypatch.setattr(text_scores, 'score', ties)
  config = ConfigDict({'preferences': '@preferences.jsonl', 'batch_size': 5})
  told = scorers.accuracy(eyes, ConfigDict({'language': 'en'}), config)
  assert told == {'unseen': 0.5}


def test_runs_that_cannot_be_compared_are_refused(
  arms: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  with pytest.raises(ValueError, match='`grpo` run, found none among 0'):
    find(str(tmp_path / '*'))

  def finish(folder: str, task: str = 'grpo') -> None:
    (tmp_path / folder).mkdir(parents=True)
    files.write_json(tmp_path / folder / 'summary.json', {})
    files.write_json(tmp_path / folder / 'config.json', {'task': task})

  finish('one/sft-0', 'sft')
  with pytest.raises(ValueError, match='`grpo` run, found none among 1'):
    find(str(tmp_path / 'one' / '*'))
  finish('one/rlmr-0')
  assert [*find(str(tmp_path / 'one' / '*'))] == ['rlmr-0']
  finish('two/rlmr-0')
  with pytest.raises(ValueError, match='have the same name'):
    find(str(tmp_path / '*' / '*'))
  for wrong in ('rlmr', 'base-0'):
    finish(f'{wrong}/{wrong}')
    with pytest.raises(ValueError, match='expected a folder named ARM-SEED'):
      find(str(tmp_path / wrong / '*'))
  finish('keyless/rlmr')
  verified = tmp_path / 'keyless' / 'rlmr'
  told = {'mode': 'benchmark', 'prompt_strict': 1.0}
  files.write_json(verified / 'summary.json', told)
  (verified / 'verdicts.jsonl').write_text('{"strict": {}}\n')
  with pytest.raises(ValueError, match='a line without `key`'):
    benchmark(str(tmp_path / 'keyless' / '*'))
  assert benchmark('') == {}
  settings = {
    name: read_settings(arms / 'runs' / name)
    for name in ('rlmr-0', 'linear_2-0')
  }
  settings['linear_2-0'].judge.endpoint.timeout = 9.0
  assert differences(settings) == []  # mixing, seed and patience may differ
  settings['linear_2-0'].learning_rate = 1.0
  (note,) = differences(settings)
  assert note == 'learning_rate: 0.001 in rlmr-0, 1.0 in linear_2-0'
  settings['linear_2-0'].writing = 'diversity'
  with pytest.raises(ValueError, match="differ in writing: 'reward_model' in"):
    differences(settings)
  for name, value in (('system', 'Rhyme.'), ('heldout', 0.5)):
    others = {
      k: each.copy_and_resolve_references() for k, each in settings.items()
    }
    others['linear_2-0'].writing = 'reward_model'
    others['linear_2-0'][name] = value
    with pytest.raises(ValueError, match=f'differ in {name}: '):
      differences(others)
  for each, name in zip(settings.values(), 'ab', strict=True):
    each.judge.model = name
  scored = settings['rlmr-0'].copy_and_resolve_references()
  check_judges(settings, scored, [])  # which the judge does not
  scored.writing = 'judge'
  with pytest.raises(ValueError, match='differ in judge: '):
    check_judges(settings, scored, [])
  for each in settings.values():
    each.judge.model = ''
  # where replies are scored by another one
  assert len(differences(settings, ['model'])) == 2
  settings['linear_2-0'].writing = 'reward_model'
  settings['linear_2-0'].max_new_tokens = 9
  with pytest.raises(ValueError, match='max_new_tokens: 8 in rlmr-0, 9 in'):
    differences(settings)
  files.write_json(tmp_path / 'rlmr' / 'summary.json', {'mode': 'reward'})
  with pytest.raises(ValueError, match='mode=benchmark'):
    benchmark(str(tmp_path / '*'))
  shutil.copytree(arms / 'ifeval', tmp_path / 'ifeval')
  for seed in '01':
    shutil.copytree(tmp_path / 'ifeval', tmp_path / 'seeds' / seed)
  with pytest.raises(ValueError, match='matches several folders'):
    benchmark(str(tmp_path / 'seeds' / '*' / '*'))
  verdicts = tmp_path / 'ifeval' / 'rlmr' / 'verdicts.jsonl'
  verdicts.write_bytes(verdicts.read_bytes().replace(b'"key": 7', b'"key": 8'))
  with pytest.raises(ValueError, match='rlmr of .* other prompts than base'):
    benchmark(str(tmp_path / 'ifeval' / '*'))


def test_two_benchmarks_are_told_apart_by_their_rules(
  tmp_path: pathlib.Path,
) -> None:
  def verified(name: str, arm: str, rule: str, kept: list[Any]) -> None:
    folder = tmp_path / name / arm
    folder.mkdir(parents=True)
    told = {'mode': 'benchmark', 'prompt_strict': 0.5}
    files.write_json(
      folder / 'summary.json', told | {'by_instruction': {rule: {}}}
    )
    rows = [
      {'key': key, 'strict': {'follow_instruction_list': [verdict]}}
      for key, verdict in enumerate(kept)
    ]
    (folder / 'verdicts.jsonl').write_bytes(
      b''.join(map(files.json_line, rows))
    )

  verified('ifeval', 'base', 'punctuation:no_comma', [True, False])
  verified('ifbench', 'base', 'words:vowel', [False, None, False])
  verified('ifbench', 'rlmr', 'words:start_verb', [True, None, False])
  pattern = str(tmp_path / '*' / '*')
  assert [*benchmark(pattern)] == ['base']
  found = benchmark(pattern, IFBENCH)
  assert [*found] == ['base', 'rlmr']
  # over the two prompts with a verdict
  assert found['rlmr']['gain']['mean'] == 0.5


def test_several_replies_to_a_prompt_of_a_benchmark_count_alike(
  tmp_path: pathlib.Path,
) -> None:
  for arm, kept in {'base': [True, False], 'rlmr': [False, True]}.items():
    (tmp_path / arm).mkdir()
    told = {'mode': 'benchmark', 'prompt_strict': 0.5}
    rule = {'by_instruction': {'punctuation:no_comma': {}}}
    files.write_json(tmp_path / arm / 'summary.json', told | rule)
    rows = [
      {'key': key, 'strict': {'follow_instruction_list': [verdict]}}
      for key in range(8)
      for verdict in kept
    ]
    lines = b''.join(map(files.json_line, rows))
    (tmp_path / arm / 'verdicts.jsonl').write_bytes(lines)
  assert benchmark(str(tmp_path / '*'))['rlmr']['gain']['mean'] == 0
