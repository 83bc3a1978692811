"""What several processes share, as far as one process can tell.

Real ones are in `hosts_test`.
"""

import pathlib
import re
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import app

from rlcw import losses, main, train
from rlcw.data import datasets
from rlcw.runtime import (
  checkpoint,
  console,
  files,
  metrics,
  processes,
  signals,
)
from rlcw.runtime.mesh import make_mesh, over_groups, replicated


def scalar_loss(params: Any, _: Any, arrays: Any) -> dict[str, losses.Ratio]:
  error = jnp.square(params['x'] - arrays['target'])
  return {'loss': losses.Ratio(error.sum(), jnp.float32(error.size))}


def descend(
  workdir: pathlib.Path,
  notice_at: int | None = None,
  next_batch: Any = None,
  checkpoint_every: int = 100,
) -> float:
  """Four steps to 0, in one of which a SIGTERM may come."""

  def notice(state: train.TrainState, step: int) -> train.Batch:
    if step == notice_at:
      signal.raise_signal(signal.SIGTERM)
    minibatch = train.Minibatch([{'target': jnp.zeros(2)}])
    return train.Batch([minibatch], {}, time.perf_counter())

  mesh = make_mesh(devices=jax.devices()[:1])
  params = jax.device_put({'x': jnp.float32(1.0)}, replicated(mesh))
  optimizer = optax.sgd(0.2)
  state = train.fit(
    params,
    next_batch or notice,
    scalar_loss,
    optimizer,
    mesh,
    name='test',
    steps=4,
    workdir=workdir,
    checkpoint_every=checkpoint_every,
  )
  return float(state.params['x'])


@pytest.mark.parametrize('step', [0, 1, 3])
def test_a_notice_ends_a_lone_run_that_goes_on_from_there(
  tmp_path: pathlib.Path, step: int
) -> None:
  with signals.listening(), pytest.raises(signals.Stopped) as stopped:
    descend(tmp_path / 'a', notice_at=step)
  assert stopped.value.code == 75
  saved = checkpoint.Checkpoints(tmp_path / 'a' / 'checkpoints')
  assert saved.latest() == step + 1  # the step in which it came, no more
  saved.close()
  assert descend(tmp_path / 'a') == descend(tmp_path / 'b')
  rows = datasets.read_jsonl(tmp_path / 'a' / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [0, 1, 2, 3]


def test_a_step_that_is_interrupted_is_not_saved(
  tmp_path: pathlib.Path,
) -> None:
  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    if step == 2:
      signal.raise_signal(signal.SIGINT)
      processes.stop_together()
    minibatch = train.Minibatch([{'target': jnp.zeros(2)}])
    return train.Batch([minibatch], {}, time.perf_counter())

  with signals.listening(), pytest.raises(signals.Stopped) as stopped:
    descend(tmp_path / 'a', next_batch=next_batch)
  assert (stopped.value.code, str(stopped.value)) == (75, 'stopped by SIGINT')
  saved = checkpoint.Checkpoints(tmp_path / 'a' / 'checkpoints')
  assert saved.latest() == 2
  saved.close()
  assert descend(tmp_path / 'a') == descend(tmp_path / 'b')


@pytest.mark.parametrize('part', [1, 2])
def test_a_run_stops_between_the_parts_of_an_update(
  tmp_path: pathlib.Path, part: int, capsys: pytest.CaptureFixture
) -> None:
  asked = True

  def parts(step: int) -> Iterator[Any]:
    for number in range(3):
      if asked and (step, number) == (2, part):
        signal.raise_signal(signal.SIGTERM)
      yield {'target': jnp.full(2, number)}

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    batch: Any = parts(step)
    return train.Batch([train.Minibatch(batch)], {}, time.perf_counter())

  with signals.listening(), pytest.raises(signals.Stopped):
    descend(tmp_path / 'a', next_batch=next_batch)
  told = capsys.readouterr().out
  assert re.search(r'test: stopped 0\.\d s after the signal: step 2 of 4', told)
  assert f'is saved in {tmp_path / "a" / "checkpoints"}\n' in told
  asked = False
  again = descend(tmp_path / 'a', next_batch=next_batch)
  assert 'resumes from step 2 of 4' in capsys.readouterr().out
  assert again == descend(tmp_path / 'b', next_batch=next_batch)
  rows = datasets.read_jsonl(tmp_path / 'a' / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [0, 1, 2, 3]


def test_a_run_that_fails_waits_for_the_checkpoint_that_is_written(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  closed = []
  monkeypatch.setattr(
    checkpoint.Checkpoints, 'close', lambda self: closed.append(self.latest())
  )

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    if step == 2:
      raise RuntimeError('reward')
    minibatch = train.Minibatch([{'target': jnp.zeros(2)}])
    return train.Batch([minibatch], {}, time.perf_counter())

  with pytest.raises(RuntimeError, match='reward'):
    descend(tmp_path, next_batch=next_batch, checkpoint_every=2)
  assert closed == [2]


def test_one_process_gathers_what_it_gave() -> None:
  parts = processes.DataShards(make_mesh(2, 2, 2))
  rows = np.arange(8.0)
  assert processes.count() == 1 and parts.index_and_count == (0, 1)
  for function in (processes.gather, parts.gather, parts.gather_to_primary):
    (given,) = function(rows)
    assert given is rows
  assert parts.local_slice(rows).tolist() == rows.tolist()
  spread = parts.to_global(rows)
  assert parts.local_rows(spread) is spread
  assert spread.sharding == over_groups(make_mesh(2, 2, 2))


class Store:
  """The coordinator's key-value store, as one process sees it."""

  def __init__(self) -> None:
    self.values: dict[str, bytes] = {}

  def key_value_set_bytes(self, key: str, value: bytes) -> None:
    assert key not in self.values and len(value) <= processes._PIECE
    self.values[key] = value

  def blocking_key_value_get_bytes(self, key: str, _: int) -> bytes:
    return self.values[key]

  def wait_at_barrier(self, *_: Any) -> None:
    pass

  def key_value_delete(self, key: str) -> None:
    kept = {k: v for k, v in self.values.items() if not k.startswith(key + '/')}
    assert len(kept) < len(self.values)
    self.values = kept


@pytest.mark.parametrize('length', [0, 1, 7, 2 * processes._PIECE])
def test_values_of_any_size_travel_in_pieces(
  monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
  store, parts = Store(), processes.DataShards(make_mesh(2, 2, 2))
  monkeypatch.setattr(processes, '_client', lambda: store)
  monkeypatch.setattr(processes, 'count', lambda: 2)
  text = 'ä' * length
  assert parts.gather_items([text, 1]) == [text, 1]
  assert parts.gather_to_primary(text) == [text]
  assert processes.from_primary(lambda: text) == text
  assert not store.values  # nothing stays in memory


def test_an_error_of_the_first_process_is_one_of_all(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  store = Store()
  monkeypatch.setattr(processes, '_client', lambda: store)
  monkeypatch.setattr(processes, 'count', lambda: 2)

  def fail() -> None:
    raise OSError('the disk is full')

  with pytest.raises(ValueError, match='the disk is full'):
    processes.from_primary(fail)
  assert not store.values


@pytest.mark.parametrize('total', [0, 1, 3, 8, 11])
@pytest.mark.parametrize('parts', [1, 2, 4])
def test_the_shares_of_a_list_are_the_list(total: int, parts: int) -> None:
  shards, shares = processes.DataShards(make_mesh(2, 2, 2)), []
  for index in range(parts):
    shards.index_and_count = index, parts
    shares.append(shards.local_items(range(total)))
  assert [item for share in shares for item in share] == [*range(total)]
  sizes = [len(share) for share in shares]
  assert max(sizes) - min(sizes) <= 1


def fake_mesh(shape: tuple[int, int, int], per_process: int) -> Any:
  """A mesh of devices that know their process, and nothing else."""
  devices = [
    SimpleNamespace(process_index=i // per_process)
    for i in range(int(np.prod(shape)))
  ]
  names = ('data', 'fsdp', 'tensor')
  return SimpleNamespace(
    devices=np.array(devices).reshape(shape),
    shape=dict(zip(names, shape, strict=True)),
  )


@pytest.mark.parametrize(
  ('shape', 'per_process', 'speakers'),
  [
    ((4, 1, 2), 2, [0, 1, 2, 3]),
    ((2, 2, 2), 4, [0, 1]),
    ((2, 1, 4), 2, [0, 2]),
    ((1, 1, 8), 2, [0]),
    ((2, 1, 3), 2, None),
    ((4, 1, 3), 4, None),
  ],
)
def test_the_first_process_of_a_part_speaks_for_it(
  monkeypatch: pytest.MonkeyPatch,
  shape: tuple[int, int, int],
  per_process: int,
  speakers: list[int] | None,
) -> None:
  monkeypatch.setattr(processes, 'over_groups', lambda mesh: None)
  mesh = fake_mesh(shape, per_process)
  if speakers is None:
    with pytest.raises(ValueError, match='expected tensor to be a divisor'):
      processes.DataShards(mesh)
  else:
    assert processes.DataShards(mesh).primaries == speakers


@pytest.mark.parametrize(
  'given',
  [
    {'JAX_NUM_PROCESSES': '2'},
    {'JAX_COORDINATOR_ADDRESS': 'x:1', 'JAX_NUM_PROCESSES': '2'},
    {
      'JAX_COORDINATOR_ADDRESS': 'x:1',
      'JAX_NUM_PROCESSES': '2',
      'JAX_PROCESS_ID': 'one',
    },
  ],
)
def test_half_of_what_names_the_others_is_an_error(
  monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
  for name, value in given.items():
    monkeypatch.setenv(name, value)
  with pytest.raises(ValueError, match='JAX_PROCESS_ID.*--distributed'):
    processes.start(False, 10)


def test_a_task_for_one_process_is_refused_to_several(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  monkeypatch.setattr(processes, 'count', lambda: 2)
  with pytest.raises(app.UsageError, match="curate.*'sft'.*'verify'"):
    main.prepare_workdir({'task': 'curate'}, tmp_path)
  monkeypatch.setattr(processes, 'gather', lambda mine: [mine, {'task': 'sft'}])
  with pytest.raises(app.UsageError, match='different settings'):
    main.prepare_workdir({'task': 'grpo'}, tmp_path)
  assert not [*tmp_path.iterdir()]


def test_only_the_first_process_writes_and_prints(
  monkeypatch: pytest.MonkeyPatch,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture,
) -> None:
  monkeypatch.setattr(processes, 'is_primary_process', lambda: False)
  files.append_jsonl(tmp_path / 'a.jsonl', {'a': 1})
  files.write_json(tmp_path / 'a.json', {'a': 1})
  with metrics.Writer(tmp_path) as write:
    write(0, {'loss': 1.0})
  console.log('a')
  assert [*console.progress('a', 0, 3, 'step')] == [0, 1, 2]
  assert not [*tmp_path.iterdir()]
  assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
  ('error', 'status'),
  [(SystemExit(2), 2), (SystemExit('full'), 1), (ValueError('bug'), 1)],
)
def test_one_of_several_processes_fails_with_its_status(
  error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  ended: list[int] = []
  monkeypatch.setattr(jax.distributed, 'is_initialized', lambda: True)
  monkeypatch.setattr(processes.os, '_exit', ended.append)
  with processes.exit_on_failure():
    raise error
  assert ended == [status]
