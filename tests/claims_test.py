"""Done means done with these settings and inputs; one writer at a time."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pipeline
import pytest
from absl import app
from ml_collections import ConfigDict

from rlcw import main
from rlcw.data import annotate as annotate_lib
from rlcw.runtime import claim, files, inputs, lock, runs, settings, signals

Run = Callable[..., dict[str, Any] | None]


class Lab:
  """A folder in which tasks run that only read their input and write it."""

  def __init__(self, folder: pathlib.Path, patch: pytest.MonkeyPatch):
    self.folder, self.calls = folder, 0
    self.act: Callable[[], None] = lambda: None
    module = types.ModuleType('rlcw_fake_task')
    module.run = self.run  # pyright: ignore
    patch.setitem(sys.modules, 'rlcw_fake_task', module)
    tasks = 'grpo', 'curate', 'export', 'evaluate', 'score', 'report'
    for task in (*tasks, 'reward_model'):
      patch.setitem(main.TASKS, task, 'rlcw_fake_task')
    patch.setattr(main.jax.config, 'update', lambda *_: None)
    # The settings here are of no real task.
    patch.setattr(main.command, 'check', lambda *_: None)

  def run(self, config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    text = pathlib.Path(str(config.input)).read_text()
    if text == 'damaged':
      raise ValueError(f'{config.input}:1: not JSON')
    claim.settle()
    lines = config.get('output') or workdir / 'scores.jsonl'
    with pathlib.Path(lines).open('a') as output:
      output.write(text)
    self.calls += 1
    self.act()
    return {'text': text}

  def __call__(self, task: str = 'score', **changes: Any) -> dict[str, Any]:
    """Runs a task as the command does; returns its summary."""
    base = {'task': task, 'input': str(self.folder / 'in.txt')}
    workdir = self.folder / task
    main.begin(ConfigDict(base | changes), workdir, f'rlcw {task}')
    return files.read_json(workdir / 'summary.json')

  def give(self, text: str) -> None:
    (self.folder / 'in.txt').write_text(text)


@pytest.fixture
def lab(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
  found = Lab(tmp_path, monkeypatch)
  found.give('a')
  return found


def train(
  folder: pathlib.Path, step: int = 11, done: bool = False, **changes: Any
) -> pathlib.Path:
  """Makes the workdir of a training run as it is at a step."""
  saved = folder / 'checkpoints' / str(step)
  saved.mkdir(parents=True, exist_ok=True)
  (saved / 'params').write_text(f'params {step}')
  config = {'task': 'grpo', 'model': 'org/model', 'steps': 32} | changes
  files.write_json(folder / 'config.json', config)
  if done:
    files.write_json(folder / 'summary.json', {'steps': step})
  return folder


def test_the_same_inputs_are_done_whatever_their_times_and_places(
  lab: Lab, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  lab()
  os.utime(tmp_path / 'in.txt', (2e9, 2e9))
  lab()
  (tmp_path / 'copy.txt').write_text('a')
  lab(input=str(tmp_path / 'copy.txt'))
  (tmp_path / 'copy.txt').unlink()
  (tmp_path / 'in.txt').unlink()  # a run that is finished needs it no more
  lab()
  assert lab.calls == 1
  assert capsys.readouterr().out.count('already done') == 3


def test_lines_that_are_gone_are_made_anew(
  lab: Lab, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  lab()
  (tmp_path / 'score' / 'scores.jsonl').unlink()
  lab()
  assert lab.calls == 2
  assert 'scores.jsonl is gone' in capsys.readouterr().out
  lab()
  assert lab.calls == 2


def test_files_of_a_glob_are_known_by_their_names(
  tmp_path: pathlib.Path,
) -> None:
  """Else one renamed to b_test.jsonl would change its split unnoticed."""
  for name in ('a_train.jsonl', 'b_extra.jsonl'):
    (tmp_path / name).write_text(name)
  before = inputs.digest(tmp_path / '*.jsonl')
  one = inputs.digest(tmp_path / 'a*.jsonl')
  assert one == inputs.digest(tmp_path / 'a_train.jsonl')
  (tmp_path / 'b_extra.jsonl').rename(tmp_path / 'b_test.jsonl')
  assert inputs.digest(tmp_path / '*.jsonl') != before


def test_a_base_that_was_overwritten_is_told(tmp_path: pathlib.Path) -> None:
  """Adapters and heads fit the weights that they were trained on alone."""
  base = tmp_path / 'base'
  base.mkdir()
  (base / 'model.safetensors').write_text('weights')
  run = train(tmp_path / 'run', done=True, model=str(base))
  inputs.check_base(run)  # of an earlier version, without digests
  described = inputs.describe(settings.read(run))
  files.write_json(
    run / 'inputs.json',
    {'workdir': str(run), 'command': 'rlcw', 'inputs': described},
  )
  inputs.check_base(run)
  (base / 'model.safetensors').write_text('others!')
  with pytest.raises(ValueError, match='base, which has other content since'):
    inputs.check_base(run)
  # a copy elsewhere is the same input
  (base / 'model.safetensors').write_text('weights')
  shutil.copytree(base, tmp_path / 'copy')
  shutil.rmtree(base)
  inputs.check_base(run)


@pytest.mark.parametrize('task', ['score', 'evaluate', 'report'])
def test_what_is_cheap_is_made_anew_of_other_inputs(
  lab: Lab, task: str, capsys: pytest.CaptureFixture, tmp_path: pathlib.Path
) -> None:
  lab(task)
  before = os.stat(tmp_path / 'in.txt')
  lab.give('b')
  os.utime(tmp_path / 'in.txt', ns=(before.st_atime_ns, before.st_mtime_ns))
  assert lab(task)['text'] == 'b'
  told = capsys.readouterr().out
  assert f'{task}: {tmp_path / task} is made anew: input=' in told
  assert lab(task)['text'] == 'b' and lab.calls == 2
  if task == 'score':  # its rows are appended to: none of the old input
    assert (tmp_path / 'score' / 'scores.jsonl').read_text() == 'b'
    assert (tmp_path / 'score' / 'scores.jsonl.old').read_text() == 'a'
    lab.give('c')
    assert lab(task)['text'] == 'c'
    old = (tmp_path / 'score' / f'scores.jsonl.old{n}' for n in ('', 2))
    assert [file.read_text() for file in old] == ['a', 'b']


def test_what_is_made_anew_costs_what_it_costs_anew(
  lab: Lab, tmp_path: pathlib.Path
) -> None:
  lab('score')
  usage = tmp_path / 'score' / 'usage.json'
  usage.write_text('{"judge": {"questions": 1000}}')
  assert lab('score')['text'] == 'a' and usage.exists()  # already done
  lab.give('b')
  assert lab('score')['text'] == 'b' and not usage.exists()


@pytest.mark.parametrize('task', ['grpo', 'curate', 'export'])
def test_what_is_costly_is_refused_other_inputs(lab: Lab, task: str) -> None:
  lab(task)
  lab.give('b')
  with pytest.raises(ValueError, match=r'input=.*in\.txt has other.*--workdir'):
    lab(task)
  lab.give('a')
  assert lab(task)['text'] == 'a' and lab.calls == 1


def test_an_unfinished_run_names_the_damaged_line_before_the_change(
  lab: Lab, tmp_path: pathlib.Path
) -> None:
  lab('grpo')
  (tmp_path / 'grpo' / 'summary.json').unlink()
  for text, message in (('damaged', ':1: not JSON'), ('b', 'other content')):
    lab.give(text)
    with pytest.raises(ValueError, match=message):
      lab('grpo')
  assert (tmp_path / 'grpo' / 'scores.jsonl').read_text() == 'a'
  lab.give('a')
  assert lab('grpo')['text'] == 'a' and lab.calls == 2


def test_a_failed_first_try_does_not_claim_the_workdir(
  lab: Lab, tmp_path: pathlib.Path
) -> None:
  lab.give('damaged')
  with pytest.raises(ValueError, match='not JSON'):
    lab(seed=1)
  assert not (tmp_path / 'score' / 'config.json').exists()
  lab.give('a')
  lab(seed=2)
  with pytest.raises(app.UsageError, match="'seed': \\(2, 1\\)"):
    lab(seed=1)


@pytest.mark.parametrize('task', ['grpo', 'curate', 'score'])
def test_a_run_that_has_kept_nothing_leaves_the_workdir_free(
  lab: Lab, tmp_path: pathlib.Path, task: str
) -> None:
  """As one whose reward or judge fails at its first call."""
  workdir = tmp_path / task

  def fail(*_: Any) -> None:
    claim.settle()
    (workdir / 'checkpoints').mkdir()
    (workdir / 'metrics.jsonl').touch()
    names = 'rollouts.jsonl', 'judge.secret', 'tensorboard/events', runs.USAGE
    for name in names:
      (workdir / name).parent.mkdir(exist_ok=True)
      (workdir / name).write_text('{}')
    raise RuntimeError('the reward failed')

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys.modules['rlcw_fake_task'], 'run', fail)
    with pytest.raises(RuntimeError, match='the reward failed'):
      lab(task, seed=1)
  assert runs.is_run(workdir)  # who reads it is told that it has not finished
  lab.give('b')
  assert lab(task, seed=2)['text'] == 'b'
  assert (workdir / runs.USAGE).exists()  # it was paid for
  (workdir / 'summary.json').unlink()
  with pytest.raises(app.UsageError, match="'seed': \\(2, 1\\)"):
    lab(task, seed=1)


def test_a_run_that_has_written_elsewhere_is_kept(
  lab: Lab, tmp_path: pathlib.Path
) -> None:
  output = str(tmp_path / 'lines.jsonl')
  lab(output=output, seed=1)
  (tmp_path / 'score' / 'summary.json').unlink()
  with pytest.raises(app.UsageError, match="'seed': \\(1, 2\\)"):
    lab(output=output, seed=2)


def test_a_run_may_be_made_longer_and_nothing_else(
  lab: Lab, tmp_path: pathlib.Path
) -> None:
  for steps in (5, 5, 9, 9):
    lab('grpo', steps=steps, seed=0)
  assert lab.calls == 2
  summary = tmp_path / 'grpo' / 'summary.json'
  for steps, seed in ((5, 0), (10, 1)):
    with pytest.raises(app.UsageError, match='steps'):
      lab('grpo', steps=steps, seed=seed)
  assert summary.exists()
  # one that fails before it trains leaves the shorter run whole
  (tmp_path / 'in.txt').unlink()
  with pytest.raises(FileNotFoundError):
    lab('grpo', steps=10, seed=0)
  assert summary.exists()


def test_a_decoder_is_trained_after_a_head_of_so_many_steps(lab: Lab) -> None:
  """It began with the head of fewer steps."""
  lab('reward_model', steps=5, train='lora')
  with pytest.raises(app.UsageError, match='other settings.*steps'):
    lab('reward_model', steps=9, train='lora')
  shutil.rmtree(lab.folder / 'reward_model')
  for steps in (5, 9):
    lab('reward_model', steps=steps, train='head')
  assert lab.calls == 3


def test_a_schedule_fixes_the_number_of_steps(lab: Lab) -> None:
  """The rates of the steps that are done would have been others."""
  lab('grpo', steps=5, schedule='cosine')
  with pytest.raises(app.UsageError, match="schedule='cosine' is of a whole"):
    lab('grpo', steps=6, schedule='cosine')
  lab('grpo', steps=5, schedule='cosine')
  assert lab.calls == 1


@pytest.mark.parametrize('text', ['', '{"a"', '[]', '\0\0\0', 'null'])
def test_a_spoiled_summary_is_not_done(
  lab: Lab, tmp_path: pathlib.Path, text: str
) -> None:
  lab()
  (tmp_path / 'score' / 'summary.json').write_text(text)
  assert lab()['text'] == 'a' and lab.calls == 2


@pytest.mark.parametrize('name', ['config.json', 'inputs.json'])
def test_a_spoiled_claim_is_named(
  lab: Lab, tmp_path: pathlib.Path, name: str
) -> None:
  lab()
  (tmp_path / 'score' / name).write_text('{"task": ')
  with pytest.raises(ValueError, match=rf'score/{name}: not JSON'):
    lab()


def test_a_run_of_an_earlier_version_goes_on(
  lab: Lab, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  lab()
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'score' / 'inputs.json').unlink()
  old = {'task': 'score', 'input': 'in.txt'}
  files.write_json(tmp_path / 'score' / 'config.json', old)
  lab()
  lab(input='in.txt')
  (tmp_path / 'other').mkdir()
  monkeypatch.chdir(tmp_path / 'other')
  lab()
  assert lab.calls == 1


def test_a_setting_that_an_earlier_version_lacked_has_its_default(
  lab: Lab,
) -> None:
  lab('grpo', steps=5)
  new = {'kl': 'k3', 'kl_weight': 0.1, 'show_every': 3, 'loggers': ['wandb']}
  lab('grpo', steps=5, **new)
  with pytest.raises(app.UsageError, match=r"'kl': \('k3', 'k2'\)"):
    lab('grpo', steps=5, kl='k2')
  lab('grpo', steps=6, **new)
  assert lab.calls == 2


@pytest.mark.parametrize(
  ('change', 'free'),
  [
    ({'timeout': 1800.0, 'retries': 1, 'concurrency': 2}, True),
    ({'key_variable': 'OTHER_KEY'}, True),
    ({'url': 'http://b/v1'}, False),
    ({'timeout': 1800.0, 'model': 'other'}, False),
  ],
)
@pytest.mark.parametrize('role', ['agent', 'writer', 'judge'])
def test_a_run_goes_on_with_other_patience(
  lab: Lab,
  role: str,
  change: dict[str, Any],
  free: bool,
  capsys: pytest.CaptureFixture[str],
) -> None:
  first = {'url': 'http://a/v1', 'model': 'm', 'timeout': 120.0, 'retries': 4}
  first |= {'concurrency': 16, 'key_variable': 'KEY'}
  second = first | change
  lab(**{role: {'endpoint': first}})
  if not free:
    for _ in ('ended', 'unfinished'):
      with pytest.raises(app.UsageError, match=r'endpoint\.(url|model)'):
        lab(**{role: {'endpoint': second}})
      (lab.folder / 'score' / 'summary.json').unlink(missing_ok=True)
    return
  # What got no answer in a run that has ended stays without one.
  lab(**{role: {'endpoint': second}})
  assert lab.calls == 1
  said = capsys.readouterr().out
  assert f'ended: {role}.endpoint.' in said and 'will change nothing' in said
  (lab.folder / 'score' / 'summary.json').unlink()
  lab(**{role: {'endpoint': second}})
  assert lab.calls == 2
  # An ended run that is made anew takes it too.
  lab.give('b')
  lab(**{role: {'endpoint': first}})
  assert lab.calls == 3
  assert 'will change nothing' not in capsys.readouterr().out


def test_paths_relative_and_absolute_are_the_same_run(
  lab: Lab, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  lab(input='in.txt', output='out.jsonl')
  lab(input='./in.txt', output=str(tmp_path / 'out.jsonl'))
  (tmp_path / 'in.txt').unlink()
  lab(input='in.txt', output='out.jsonl')
  # as earlier versions wrote it
  old = {'task': 'score', 'input': 'in.txt', 'output': 'out.jsonl'}
  files.write_json(tmp_path / 'score' / 'config.json', old)
  lab(input='in.txt', output='out.jsonl')
  assert lab.calls == 1
  with pytest.raises(app.UsageError, match='output'):
    lab(input='in.txt', output='other.jsonl')


# --- What is read -----------------------------------------------------------


def test_a_summary_names_the_runs_that_were_read(
  lab: Lab, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  run = train(tmp_path / 'run')
  read = lab('evaluate', run=str(run))['read']
  record = {'run': str(run), 'step': 11, 'steps': 32, 'finished': False}
  assert read == [record]
  first, *_ = capsys.readouterr().out.splitlines()
  assert first == (
    f'evaluate: reads {run} at step 11 of 32, which has not finished'
  )
  train(run, 32, done=True)
  read = lab('evaluate', run=str(run))['read']
  assert read == [record | {'step': 32, 'finished': True}]
  told = capsys.readouterr().out
  assert 'was at step 11 of 32, is at step 32 of 32' in told
  assert lab('evaluate', run=str(run))['read'] == read and lab.calls == 2


def test_arms_of_other_names_or_functions_are_other_inputs(
  lab: Lab, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.py').write_text('a = 1')
  run = train(tmp_path / 'a-0', 32, done=True, writing='mine:a')
  for count in (1, 1):
    lab('evaluate', runs='*-0')
    assert lab.calls == count
  run.rename(tmp_path / 'b-0')
  for count in (2, 2):
    lab('evaluate', runs='*-0')
    assert lab.calls == count
  (tmp_path / 'mine.py').write_text('a = 2')
  for count in (3, 3):
    lab('evaluate', runs='*-0')
    assert lab.calls == count
  monkeypatch.chdir('/')  # from where the function is not seen
  lab('evaluate', runs=str(tmp_path / '*-0'))
  assert lab.calls == 3


def test_a_page_about_an_outdated_evaluation_says_so(
  lab: Lab, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  run = train(tmp_path / 'run')
  lab('evaluate', run=str(run))
  train(run, 32, done=True)
  summary = lab('report', grpo=str(run), evaluate=str(tmp_path / 'evaluate'))
  [notice] = summary['notices']
  assert 'at step 11, which is at step 32 now; rlcw evaluate' in notice
  capsys.readouterr()
  lab('report', grpo=str(run), evaluate=str(tmp_path / 'evaluate'))
  assert f'notice: {notice}' in capsys.readouterr().out and lab.calls == 2


def test_the_output_of_an_unfinished_run_is_no_whole_input(
  lab: Lab, tmp_path: pathlib.Path
) -> None:
  pairs = tmp_path / 'pairs'
  pairs.mkdir()
  (pairs / 'preferences.jsonl').write_text('{}\n')
  # a folder of the user's own, with a config.json of another program
  (pairs / 'config.json').write_text('// no JSON')
  assert lab(preferences=str(pairs / 'preferences.jsonl'))['notices'] == []
  files.write_json(pairs / 'config.json', {'task': 'curate'})
  files.write_json(pairs / 'inputs.json', {})
  lab.give('b')
  summary = lab(preferences=str(pairs / 'preferences.jsonl'))
  [notice] = summary['notices']
  assert 'is incomplete' in notice and '--config=configs/curate.py' in notice


# --- Ends -------------------------------------------------------------------


@pytest.mark.parametrize('error', [SystemExit(0), SystemExit(75), SystemExit()])
def test_an_exit_in_users_code_is_an_error(lab: Lab, error: SystemExit) -> None:
  def leave() -> None:
    raise error

  lab.act = leave
  with pytest.raises(ValueError, match=r'claims_test\.py:\d+: SystemExit'):
    lab()
  assert not runs.is_finished(lab.folder / 'score')


def test_a_stopped_run_is_unfinished_and_resumes(lab: Lab) -> None:
  def stop() -> None:
    signal.raise_signal(signal.SIGINT)
    annotate_lib.processes.stop_together()

  lab.act = stop
  with signals.listening(), pytest.raises(signals.Stopped):
    lab()
  assert not runs.is_finished(lab.folder / 'score')
  lab.act = lambda: None
  assert lab()['text'] == 'a'


# --- The lock ---------------------------------------------------------------

HOLD = """
import pathlib, sys, time
sys.path.insert(0, sys.argv[1])
from rlcw.runtime import lock
with lock.held(pathlib.Path(sys.argv[2])):
  print('held', flush=True)
  time.sleep(60)
"""


def test_a_second_writer_is_refused_until_the_first_has_died(
  lab: Lab, tmp_path: pathlib.Path
) -> None:
  root = str(pathlib.Path(__file__).resolve().parents[1])
  holder = subprocess.Popen(
    [sys.executable, '-c', HOLD, root, str(tmp_path / 'score')],
    stdout=subprocess.PIPE,
  )
  try:
    assert holder.stdout is not None
    holder.stdout.readline()
    who = rf'in use by process {holder.pid} on .+ since \d{{4}}-'
    with pytest.raises(lock.Busy, match=who):
      lab()
    with pytest.raises(lock.Busy, match=who):  # looking does not release it
      lab()
  finally:
    holder.kill()
    holder.wait()
  assert lab()['text'] == 'a'
  assert (tmp_path / 'score' / lock.FILE).read_bytes() == b''


def test_a_writer_of_another_host_that_did_not_end_well_is_named(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  record = {'host': 'elsewhere', 'pid': 7, 'since': '2026-01-01'}
  files.write_json(tmp_path / lock.FILE, record)
  for _ in range(2):
    with lock.held(tmp_path):
      pass
  told = capsys.readouterr().out
  assert told.count('process 7 on elsewhere since 2026-01-01') == 1


@pytest.mark.parametrize('number', [38, 95, 37])  # ENOSYS, EOPNOTSUPP, ENOLCK
def test_a_folder_without_locks_is_used_with_a_warning(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture,
  number: int,
) -> None:
  def refuse(*_: object) -> None:
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(lock.fcntl, 'lockf', refuse)
  with lock.held(tmp_path):
    pass
  assert 'cannot be locked' in capsys.readouterr().out


def test_an_output_is_no_input_and_was_begun_by_its_run(
  tmp_path: pathlib.Path,
) -> None:
  def write(workdir: str, **changes: Any) -> None:
    config = pipeline.shipped('briefs')
    config.count = 2
    config.update(changes)
    main.begin(config, tmp_path / workdir, 'rlcw')

  themes = tmp_path / 'themes.jsonl'
  lines = (
    (pipeline.ROOT / 'rlcw/data/assets/themes.jsonl').read_text().splitlines()
  )
  themes.write_text('\n'.join(lines[:9]) + '\n')
  before = themes.read_text()
  with pytest.raises(ValueError, match='output=.* is also input'):
    write('a', input=str(themes), output=str(themes))
  assert themes.read_text() == before
  mine = tmp_path / 'mine.jsonl'
  mine.write_text('{"kept": true}\n')
  with pytest.raises(ValueError, match='output=.* exists, and was not begun'):
    write('b', input=str(themes), output=str(mine))
  assert mine.read_text() == '{"kept": true}\n'
  new = tmp_path / 'new.jsonl'
  write('c', input=str(themes), output=str(new))
  assert len(new.read_text().splitlines()) == 2
  write('c', input=str(themes), output=str(new))  # it is finished
  with pytest.raises(ValueError, match='was not begun'):
    write('d', input=str(themes), output=str(new), seed=1)
  own = tmp_path / 'e' / 'briefs.jsonl'  # where no output is named
  own.parent.mkdir()
  own.write_text(before)
  for source, words in ((own, 'is also input'), (themes, 'was not begun')):
    with pytest.raises(ValueError, match=words):
      write('e', input=str(source))
  assert own.read_text() == before
  own.write_text('')  # as of a try on a full disk
  write('e', input=str(themes))
  assert len(own.read_text().splitlines()) == 2
  shards = tmp_path / 'shards'
  shards.mkdir()
  shutil.copy(themes, shards)
  for source in (shards, shards / '*.jsonl'):
    with pytest.raises(ValueError, match='output=.* is also input'):
      write('f', input=str(source), output=str(shards / 'new.jsonl'))
  with pytest.raises(ValueError, match='run is in input=.*shards; choose'):
    write('shards/run', input=str(shards))
  write('shards/run', input=str(shards / '*.jsonl'))
  write('shards/run', input=str(shards / '*.jsonl'))
  os.mkfifo(tmp_path / 'pipe')
  with pytest.raises(ValueError, match='pipe is no file; expected a new one'):
    write('f', input=str(themes), output=str(tmp_path / 'pipe'))
  loop = tmp_path / 'loop'
  loop.symlink_to(loop)
  write('f', input=str(themes), output=str(loop))
  assert len(loop.read_text().splitlines()) == 2


@pytest.mark.parametrize('output', ['', 'elsewhere.jsonl'])
@pytest.mark.parametrize('killed_at', ['inputs', 'config', 'briefs', 'summary'])
def test_lines_that_are_written_whole_are_those_of_their_run(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  killed_at: str,
  output: str,
) -> None:
  class Killed(BaseException):
    pass

  def begin(**changes: Any) -> None:
    config = pipeline.shipped('briefs')
    config.update({'count': 2, 'output': output and str(lines)} | changes)
    main.begin(config, tmp_path / 'run', 'rlcw')

  lines = tmp_path / (output or 'run/briefs.jsonl')
  original = files.atomic

  @contextlib.contextmanager
  def atomic(path: pathlib.Path) -> Iterator[pathlib.Path]:
    if path.stem == killed_at or (killed_at == 'briefs' and path == lines):
      raise Killed
    with original(path) as partial:
      yield partial

  with monkeypatch.context() as patch:
    patch.setattr(files, 'atomic', atomic)
    with pytest.raises(Killed):
      begin()
  if killed_at == 'summary':
    with pytest.raises(app.UsageError, match='other settings'):
      begin(seed=1)
  begin()
  assert len(lines.read_text().splitlines()) == 2


def test_a_full_disk_does_not_hide_an_error_behind_the_lock(
  tmp_path: pathlib.Path,
) -> None:
  full, held = pipeline.full_disk(), lock.held(tmp_path)
  with pytest.raises(OSError, match='why'), full, held:
    raise OSError('why')


def test_programs_are_kept_beside_the_current_folder(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  kept = {}
  monkeypatch.setattr(main.jax.config, 'update', kept.__setitem__)
  (tmp_path / 'run').mkdir()
  monkeypatch.chdir(tmp_path / 'run')
  config = pipeline.shipped('briefs')
  config.count = 1
  main.begin(config, pathlib.Path('.'), 'rlcw')
  assert kept['jax_compilation_cache_dir'] == str(tmp_path / '.xla')
