"""Loggers get every step once, and none of them ends a run."""

import errno
import json
import math
import os
import pathlib
import sqlite3
import struct
from collections.abc import Iterator
from typing import Any

import pipeline
import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from rlcw.runtime import console, loggers, metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPLY = '[bold]x</pre><script>\n```\n![a](http://x)\n\ud83d'


class Kept:
  """A logger that keeps what it gets, and fails when it is told to."""

  calls: list[tuple[Any, ...]]
  failing: set[str]

  def __init__(self, run: loggers.Run):
    self.run = run
    Kept.calls.append(('open', run.id))
    self._do('start')

  def text(self, step: int, name: str, text: str) -> None:
    self._do('text', step, name, text)

  def log(self, step: int, numbers: dict[str, float]) -> None:
    self._do('log', step, dict(numbers))

  def close(self) -> None:
    self._do('close')

  def _do(self, *call: Any) -> None:
    if call[0] in Kept.failing:
      raise OSError(errno.ENOSPC, 'No space left\non device')
    Kept.calls.append(call)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> type[Kept]:
  monkeypatch.setattr(Kept, 'calls', [], raising=False)
  monkeypatch.setattr(Kept, 'failing', set(), raising=False)
  monkeypatch.setitem(loggers.LOGGERS, 'wandb', Kept)
  monkeypatch.setattr(loggers, '_is_installed', lambda name: True)
  console.take_notices()
  return Kept


def write(folder: pathlib.Path, names: str, first: int, stop: int) -> None:
  """Writes the steps from `first` to `stop`, as a run does."""
  config = ConfigDict({'loggers': (names,), 'a': {'b': 1}})
  with metrics.Writer(folder, first, config=config) as writer:
    for step in range(first, stop):
      numbers = {'loss': step / 2, 'nan': math.nan, 'text': 'x', 'none': None}
      writer(step, numbers, REPLY if step % 2 else '')


def logged(kept: type[Kept]) -> list[int]:
  return [call[1] for call in kept.calls if call[0] == 'log']


@pytest.mark.parametrize(
  ('given', 'names'),
  [
    (('tensorboard',), ['tensorboard']),
    (('tensorboard,wandb',), ['tensorboard', 'wandb']),  # by the command line
    ('wandb, trackio', ['wandb', 'trackio']),
    (('wandb', 'wandb', ' trackio '), ['wandb', 'trackio']),
    ((), []),
    ('', []),
  ],
)
def test_a_text_with_commas_names_several(given: Any, names: list[str]) -> None:
  assert loggers.names_of({'loggers': given}) == names


def test_tensorboard_is_the_default() -> None:
  assert loggers.names_of({}) == ['tensorboard']


def test_an_unknown_logger_is_refused_with_the_legal_ones() -> None:
  with pytest.raises(ValueError) as caught:
    loggers.check({'loggers': 'tensorboard,mlflow'})
  assert str(caught.value) == (
    "loggers: 'mlflow' is unknown; expected some of tensorboard, wandb, trackio"
  )


@pytest.mark.parametrize('name', ['wandb', 'trackio'])
def test_a_logger_that_is_not_installed_is_refused_with_its_extra(
  name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(loggers, '_is_installed', lambda name: False)
  with pytest.raises(ValueError, match=rf"\(pip install -e '\.\[{name}\]'\)$"):
    loggers.check({'loggers': (name,)})
  loggers.check({'loggers': ('tensorboard',)})


@pytest.mark.parametrize('given', [None, 1, True])
def test_loggers_are_names(given: Any) -> None:
  with pytest.raises(ValueError, match=f'loggers={given}; expected names'):
    loggers.check({'loggers': given})


def test_a_folder_is_no_installed_package(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  (tmp_path / 'some_logger').mkdir()
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend('')
  assert not loggers._is_installed('some_logger')
  assert loggers._is_installed('numpy')


def test_a_secret_is_not_logged(
  tmp_path: pathlib.Path, kept: type[Kept]
) -> None:
  config = ConfigDict({'loggers': 'wandb', 'key_variable': 'sk-1234567890abc'})
  with pytest.raises(ValueError, match='the value is not shown'):
    metrics.Writer(tmp_path, config=config)
  assert kept.calls == []


def test_a_step_s_text_comes_before_its_finite_numbers(
  tmp_path: pathlib.Path, kept: type[Kept]
) -> None:
  write(tmp_path, 'wandb', 0, 2)
  assert kept.calls[1:] == [
    ('start',),
    ('log', 0, {'loss': 0.0}),
    ('text', 1, 'sample', REPLY.replace('\ud83d', '?')),
    ('log', 1, {'loss': 0.5}),
    ('close',),
  ]


def test_a_resumed_run_goes_on_as_itself_and_logs_no_step_twice(
  tmp_path: pathlib.Path, kept: type[Kept]
) -> None:
  write(tmp_path, 'tensorboard,wandb', 0, 5)
  write(tmp_path, 'tensorboard,wandb', 2, 3)  # killed before it caught up
  write(tmp_path, 'tensorboard,wandb', 2, 7)
  assert logged(kept) == [0, 1, 2, 3, 4, 5, 6]
  opened = [call for call in kept.calls if call[0] == 'open']
  assert len(opened) == 3 and len({*opened}) == 1
  texts = [call[1] for call in kept.calls if call[0] == 'text']
  assert texts == [1, 3, 5]
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 7


def test_a_logger_that_is_added_begins_where_the_run_resumes(
  tmp_path: pathlib.Path, kept: type[Kept]
) -> None:
  write(tmp_path, 'tensorboard', 0, 5)
  assert not (tmp_path / 'loggers.json').exists()
  write(tmp_path, 'wandb', 2, 6)
  assert logged(kept) == [2, 3, 4, 5]


@pytest.mark.parametrize(
  ('failing', 'notice'),
  [
    ('log', 'logger wandb failed in 4 of 8 calls, first: '),
    ('text', 'logger wandb failed in 2 of 8 calls, first: '),
    ('close', 'logger wandb failed in 1 of 8 calls, first: '),
    ('start', 'logger wandb did not start: '),
  ],
)
def test_a_logger_that_fails_is_named_once_and_counted(
  failing: str,
  notice: str,
  tmp_path: pathlib.Path,
  kept: type[Kept],
  capsys: pytest.CaptureFixture[str],
) -> None:
  kept.failing.add(failing)
  write(tmp_path, 'wandb,tensorboard', 0, 4)
  reason = 'OSError: [Errno 28] No space left on device'
  said = capsys.readouterr().out.splitlines()
  warning = f'warning: logger wandb fails, the run goes on: {reason}'
  assert said == [warning, f'notice: {notice}{reason}']
  assert console.take_notices() == [notice + reason]
  assert len((tmp_path / 'metrics.jsonl').read_text().splitlines()) == 4


# --- The libraries ----------------------------------------------------------


def tensorboard_events(folder: pathlib.Path) -> list[Any]:
  from tensorboardX.proto.event_pb2 import Event  # type: ignore

  events = []
  for file in sorted(folder.glob('tensorboard/events.out.tfevents.*')):
    content = file.read_bytes()
    while content:  # length, its checksum, event, its checksum
      end = 12 + struct.unpack('<Q', content[:8])[0]
      events.append(Event.FromString(content[12:end]))
      content = content[end + 4 :]
  return events


def test_tensorboard_gets_a_sample_as_literal_text(
  tmp_path: pathlib.Path,
) -> None:
  write(tmp_path, 'tensorboard', 1, 2)
  [value] = [
    value
    for event in tensorboard_events(tmp_path)
    for value in event.summary.value
    if value.tag.startswith('sample')
  ]
  assert value.metadata.plugin_data.plugin_name == 'text'
  lines = value.tensor.string_val[0].decode().split('\n')
  # Markdown: a block of code, which only a line without indentation would end.
  assert lines == [
    '    [bold]x</pre><script>',
    '    ```',
    '    ![a](http://x)',
    '    ?',
  ]


def wandb_records(file: pathlib.Path) -> Iterator[Any]:
  """Records of an offline run, a file in the format of LevelDB's logs."""
  from wandb.proto import wandb_internal_pb2  # type: ignore

  data, at, parts = file.read_bytes(), 7, b''
  while at + 7 <= len(data):
    if 32768 - at % 32768 < 7:  # no record begins so late in a block
      at += 32768 - at % 32768
      continue
    _, size, kind = struct.unpack('<IHB', data[at : at + 7])
    parts += data[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):  # whole, or the last part
      yield wandb_internal_pb2.Record.FromString(parts)
      parts = b''


def test_wandb_gets_every_step_once_offline(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  wandb = pytest.importorskip('wandb')
  for name in [n for n in os.environ if n.startswith('WANDB_')]:
    monkeypatch.delenv(name)
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_PROJECT', 'mine')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  console.take_notices()
  write(tmp_path, 'wandb', 0, 3)
  write(tmp_path, 'wandb', 1, 4)
  wandb.teardown()  # waits until all is on disk
  assert console.take_notices() == []
  steps, runs, pages = [], set(), []
  for file in sorted(tmp_path.glob('wandb/offline-run-*/run-*.wandb')):
    pages += [*file.parent.glob('files/media/html/sample_*.html')]
    for record in wandb_records(file):
      if record.WhichOneof('record_type') == 'run':
        run = record.run
        config = {item.key: item.value_json for item in run.config.update}
        assert json.loads(config['a']) == {'b': 1}
        runs.add((run.run_id, run.project, run.display_name))
      if record.WhichOneof('record_type') == 'history':
        items = {
          '.'.join(item.nested_key) or item.key: item.value_json
          for item in record.history.item
        }
        steps.append((record.history.step.num, json.loads(items['loss'])))
        assert {'nan', 'text', 'none'}.isdisjoint(items)
  assert steps == [(0, 0.0), (1, 0.5), (2, 1.0), (3, 1.5)]
  id = json.loads((tmp_path / 'loggers.json').read_text())['id']
  assert runs == {(id, 'mine', f'{tmp_path.name}-{id[:6]}')}
  assert len(pages) == 2
  text = pages[0].read_text()
  assert '[bold]x&lt;/pre&gt;&lt;script&gt;' in text


def test_trackio_gets_every_step_once_offline(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  pytest.importorskip('trackio')
  from trackio import sqlite_storage, utils  # type: ignore

  for name in [n for n in os.environ if n.startswith('TRACKIO_')]:
    monkeypatch.delenv(name)
  monkeypatch.setenv('TRACKIO_PROJECT', 'mine')
  folder = tmp_path / 'trackio'
  # The variable TRACKIO_DIR is read when the library is imported.
  for module in (sqlite_storage, utils):
    monkeypatch.setattr(module, 'TRACKIO_DIR', folder)
  console.take_notices()
  write(tmp_path, 'trackio', 0, 3)
  write(tmp_path, 'trackio', 1, 4)
  assert console.take_notices() == []
  with sqlite3.connect(folder / 'mine.db') as found:
    rows = found.execute('SELECT run_id, run_name, step, metrics FROM metrics')
    rows = [*rows]
  id = json.loads((tmp_path / 'loggers.json').read_text())['id']
  assert {name for _, name, *_ in rows} == {f'{tmp_path.name}-{id[:6]}'}
  assert len({run for run, *_ in rows}) == 1
  values = {step: json.loads(value) for *_, step, value in rows}
  assert len(rows) == 4
  assert [values[n]['loss'] for n in range(4)] == [0.0, 0.5, 1.0, 1.5]
  assert [{*values[n]} for n in (0, 1)] == [{'loss'}, {'loss', 'sample'}]
  assert values[1]['sample']['_value'].startswith('    [bold]x</pre>')


@pytest.mark.parametrize('task', ['sft', 'reward_model', 'grpo'])
def test_the_command_line_names_loggers_with_commas(task: str) -> None:
  def parse(*given: str) -> list[str]:
    values = flags.FlagValues()
    arguments = ['rlcw', f'--config={ROOT}/configs/{task}.py', *given]
    config_flags.DEFINE_config_file(
      'config', None, '', values, sys_argv=arguments
    )
    values(arguments)
    return loggers.names_of(values.config)

  assert parse() == ['tensorboard']
  assert parse('--config.loggers=wandb') == ['wandb']
  given = 'tensorboard,wandb,trackio'
  assert parse(f'--config.loggers={given}') == given.split(',')
  assert parse("--config.loggers=('wandb', 'trackio')") == ['wandb', 'trackio']
  assert parse('--config.loggers=()') == []


@pytest.mark.parametrize('task', ['sft', 'reward_model', 'grpo'])
def test_a_task_refuses_a_logger_before_anything_is_loaded(
  task: str, tmp_path: pathlib.Path
) -> None:
  config = pipeline.shipped(task)
  config.update({'model': 'absent', 'loggers': ('tensorboard', 'mlflow')})
  with pytest.raises(ValueError, match="'mlflow' is unknown; expected some of"):
    pipeline.run(task, config, tmp_path)
