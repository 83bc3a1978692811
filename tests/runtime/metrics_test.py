"""Numbers leave a loop whole, and a resumed run writes no step twice."""

import errno
import json
import math
import pathlib
import struct
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlcw.data import datasets
from rlcw.runtime import console, files, metrics


def read(path: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_not_a_number_is_null(tmp_path: pathlib.Path) -> None:
  with metrics.Writer(tmp_path) as write:
    write(0, {'a': jnp.float32(1.5), 'b': math.nan, 'c': -np.inf, 'd': True})
  assert read(tmp_path / 'metrics.jsonl') == [
    {'step': 0, 'a': 1.5, 'b': None, 'c': None, 'd': True}
  ]
  assert list((tmp_path / 'tensorboard').glob('events*'))


def test_a_resumed_run_forgets_later_steps_and_torn_lines(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'metrics.jsonl'
  lines = [json.dumps({'step': step}) for step in range(4)]
  torn = '{"step": 4, "text": "五'.encode()[:-1]
  path.write_bytes('\n'.join(lines).encode() + b'\n' + torn)
  diary = tmp_path / 'rollouts.jsonl'
  diary.write_text('{"step": 1}\n{"step": 1}\n{"step": 2}\n')
  with metrics.Writer(tmp_path, first_step=2) as write:
    write(2, {'again': 1})
  assert read(path) == [{'step': 0}, {'step': 1}, {'step': 2, 'again': 1}]
  assert read(diary) == [{'step': 1}, {'step': 1}]


def test_a_line_separator_inside_a_text_ends_no_line(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'rollouts.jsonl'
  record = {'step': 0, 'text': 'a\u2028b\x85c'}
  files.append_jsonl(path, record)
  files.drop_from_step(path, 1)
  assert datasets.read_jsonl(path) == [record]


def test_compilations_are_counted() -> None:
  counter = metrics.Compilations()
  double = jax.jit(lambda x: x * 2)
  double(jnp.ones(3))
  first = counter.count
  double(jnp.zeros(3))
  assert counter.count == first >= 1
  double(jnp.ones(4))
  assert counter.count > first
  assert counter.seconds > 0


@pytest.mark.parametrize(
  ('peaks', 'expected'),
  [
    ([3 * 2**30, 2**31], {'peak_device_memory_gib': 3}),
    ([None, 2**29], {'peak_device_memory_gib': 0.5}),
    ([None], {}),
  ],
)
def test_the_fullest_device_counts_where_devices_tell(
  peaks: list[int | None],
  expected: dict[str, float],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  devices = [
    types.SimpleNamespace(
      memory_stats=lambda p=peak: p and {'peak_bytes_in_use': p}
    )
    for peak in peaks
  ]
  monkeypatch.setattr(jax, 'local_devices', lambda: devices)
  assert metrics.peak_device_memory() == expected


def test_write_json_replaces_whole_files(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'summary.json'
  files.write_json(path, {'a': np.arange(2)})
  files.write_json(path, {'b': '五言'})
  assert json.loads(path.read_text()) == {'b': '五言'}
  assert [p.name for p in tmp_path.iterdir()] == ['summary.json']


def test_only_a_run_s_own_diaries_are_cut(tmp_path: pathlib.Path) -> None:
  for name in ('rollouts', 'filtered', 'briefs'):
    (tmp_path / f'{name}.jsonl').write_text('{"step": 5}\n')
  (tmp_path / 'briefs.jsonl').write_text('{"id": "no step"}\n')
  with metrics.Writer(tmp_path, first_step=5):
    pass
  assert (tmp_path / 'rollouts.jsonl').read_text() == ''
  assert (tmp_path / 'filtered.jsonl').read_text() == '{"step": 5}\n'
  assert (tmp_path / 'briefs.jsonl').read_text() == '{"id": "no step"}\n'


def test_tensorboard_is_told_the_same(tmp_path: pathlib.Path) -> None:
  from tensorboardX.proto.event_pb2 import Event  # type: ignore

  with metrics.Writer(tmp_path, first_step=3) as write:
    write(3, {'loss': 0.5, 'kl': math.nan, 'name': 'x', 'n': 2})
  (file,) = (tmp_path / 'tensorboard').glob('events.out.tfevents.*')
  content, events = file.read_bytes(), []
  while content:  # length, its checksum, event, its checksum
    end = 12 + struct.unpack('<Q', content[:8])[0]
    events.append(Event.FromString(content[12:end]))
    content = content[end + 4 :]
  version, start, told = events
  assert version.file_version == 'brain.Event:2'
  assert (start.step, start.session_log.status) == (3, 1)  # START
  scalars = {value.tag: value.simple_value for value in told.summary.value}
  assert (told.step, scalars) == (3, {'loss': 0.5, 'n': 2.0})


def test_a_full_disk_is_an_error_that_names_the_file(
  tmp_path: pathlib.Path,
) -> None:
  with (
    pytest.raises(OSError, match='No space left.*metrics.jsonl') as caught,
    metrics.Writer(tmp_path) as write,
  ):
    # from now on: read, it would have no end
    (tmp_path / 'metrics.jsonl').symlink_to('/dev/full')
    write(0, {'loss': 1.0})
  assert caught.value.errno == errno.ENOSPC


def test_a_run_goes_on_where_only_tensorboard_s_disk_is_full(
  tmp_path: pathlib.Path,
) -> None:
  console.take_notices()
  with metrics.Writer(tmp_path) as write:
    board: Any = write._loggers._loggers[0]._logger  # type: ignore
    full = open('/dev/full', 'wb')  # noqa: SIM115
    board._board._py_recordio_writer._writer = full
    for step in range(999):  # what waits for a full disk would never end
      write(step, {'loss': 1.0})
  assert len(read(tmp_path / 'metrics.jsonl')) == 999
  [notice] = console.take_notices()
  assert 'logger tensorboard failed in' in notice
  assert 'No space left' in notice


def test_the_updates_of_a_step_are_one_row() -> None:
  """Means are of those that were made; nothing changes for a single one."""
  first = {
    'loss': 1.0,
    'skipped': 0,
    'bad_steps': 0,
    'learning_rate': 0.1,
    'sampler_gap': 0.01,
    'sampler_gap_max': 0.2,
  }
  second = first | {'loss': 3.0, 'learning_rate': 0.2, 'sampler_gap': 0.5}
  bad = second | {'loss': math.nan, 'skipped': 1, 'bad_steps': 1}
  assert metrics.join_updates([first]) is first
  assert metrics.join_updates([first, bad, second]) == {
    'loss': 2.0,
    'skipped': 1,
    'bad_steps': 1,
    'learning_rate': 0.2,
    'sampler_gap': 0.01,
    'sampler_gap_max': 0.2,
  }
  assert np.isnan(metrics.join_updates([bad, bad])['loss'])
