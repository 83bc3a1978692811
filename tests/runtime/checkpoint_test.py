"""A damaged checkpoint is passed over, and the run ends as if it were whole."""

import errno
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax import checkpoint as ocp
from orbax.checkpoint._src.checkpointers import async_checkpointer

from rlcw import losses, train
from rlcw.data import datasets
from rlcw.runtime import checkpoint
from rlcw.runtime.checkpoint import Checkpoints
from rlcw.runtime.mesh import make_mesh, replicated

Damage = Callable[[pathlib.Path], Any]
RNG = np.random.default_rng(0)
PARAMS = {'x': jnp.asarray(RNG.normal(size=(64, 32)), jnp.float32)}
REST = {'step': jnp.int32(0)}


def largest(folder: pathlib.Path) -> pathlib.Path:
  """The file with the array's numbers."""
  files = [path for path in folder.rglob('*') if path.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def flip(file: pathlib.Path) -> None:
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


DAMAGES: dict[str, Damage] = {
  'cut': lambda file: file.write_bytes(file.read_bytes()[:99]),
  'zeros': lambda file: file.write_bytes(bytes(file.stat().st_size)),
  'one bit': flip,
  'removed': pathlib.Path.unlink,
}


def save(folder: pathlib.Path, *steps: int) -> None:
  checkpoints = Checkpoints(folder)
  for step in steps:
    checkpoints.save(step, {'x': PARAMS['x'] + step}, {'step': jnp.int32(step)})
  checkpoints.close()


def saved(folder: pathlib.Path) -> set[str]:
  return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize('damage', DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
  tmp_path: pathlib.Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
  save(tmp_path, 1, 2, 3)
  assert saved(tmp_path) == {'2', '3'}
  damage(largest(tmp_path / '3'))
  reader = Checkpoints(tmp_path, read_only=True)
  found = reader.restore(params=PARAMS)['params']['x']
  assert found.tobytes() == (PARAMS['x'] + 2).tobytes()
  said = capsys.readouterr().out
  assert f'checkpoint {tmp_path / "3"} cannot be read and is skipped' in said
  assert 'bound method' not in said
  assert saved(tmp_path) == {'2', '3'}  # a reader changes nothing
  owner = Checkpoints(tmp_path)
  both = owner.restore(params=PARAMS, rest={'step': jnp.int32(0)})
  assert int(both['rest']['step']) == 2
  assert owner.latest() == 2
  owner.close()
  save(tmp_path, 3)
  again = Checkpoints(tmp_path).restore(params=PARAMS)['params']['x']
  assert again.tobytes() == (PARAMS['x'] + 3).tobytes()


def test_states_from_a_step_on_are_deleted(tmp_path: pathlib.Path) -> None:
  save(tmp_path, 2, 4)
  checkpoints = Checkpoints(tmp_path)
  checkpoints.drop_from(3)
  assert checkpoints.latest() == 2
  # An earlier step than the one deleted can be saved.
  checkpoints.save(3, PARAMS, REST)
  assert checkpoints.latest() == 3
  checkpoints.close()


def test_where_none_can_be_read_nothing_is_touched(
  tmp_path: pathlib.Path,
) -> None:
  save(tmp_path, 1, 2)
  for step in '1', '2':
    flip(largest(tmp_path / step))
  with pytest.raises(ValueError, match=r'none of the checkpoints \[2, 1\]'):
    Checkpoints(tmp_path).restore(params=PARAMS)
  assert saved(tmp_path) == {'1', '2'}


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'y': jnp.int32(0)}, 'y is missing in .* step 2, and int32.. by the'),
    ({'step': jnp.float32(0)}, 'step is int32.. in .*, and float32.. by'),
    ({'step': jnp.zeros(3, jnp.int32)}, r'and int32\[3\] by the settings'),
  ],
)
def test_a_state_of_other_settings_is_refused_in_one_line(
  tmp_path: pathlib.Path,
  changed: dict[str, Any],
  message: str,
  capsys: pytest.CaptureFixture[str],
) -> None:
  save(tmp_path, 1, 2)
  with pytest.raises(ValueError, match=f'{message}.*expected those') as error:
    Checkpoints(tmp_path).restore(
      params=PARAMS, rest={'step': jnp.int32(0)} | changed
    )
  assert '\n' not in str(error.value)
  assert not capsys.readouterr().out
  assert saved(tmp_path) == {'1', '2'}


def test_a_reader_leaves_a_save_that_is_going_on_alone(
  tmp_path: pathlib.Path,
) -> None:
  save(tmp_path, 1)
  half = tmp_path / '2.orbax-checkpoint-tmp'
  half.mkdir()
  reader = Checkpoints(tmp_path, read_only=True)
  assert reader.latest() == 1
  assert half.exists()
  assert Checkpoints(tmp_path).latest() == 1  # the run itself begins it anew,
  save(tmp_path, 3)  # and has cleared it away when it saves
  assert not half.exists()


def test_a_checkpoint_without_checksums_is_read(tmp_path: pathlib.Path) -> None:
  with ocp.CheckpointManager(tmp_path) as manager:
    params = ocp.args.StandardSave(PARAMS)  # type: ignore
    manager.save(1, args=ocp.args.Composite(params=params))
  found = Checkpoints(tmp_path).restore(params=PARAMS)['params']['x']
  assert found.tobytes() == PARAMS['x'].tobytes()


def test_a_save_that_fails_names_the_folder_and_the_way_on(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')

  save(tmp_path, 1)
  checkpoints = Checkpoints(tmp_path)
  monkeypatch.setattr(ocp.CheckpointManager, 'save', full)
  message = (
    f'{tmp_path}: .*MiB are free.*are intact.*same command again.*No space left'
  )
  with pytest.raises(OSError, match=message):
    checkpoints.save(2, PARAMS, {})
  assert saved(tmp_path) == {'1'}


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
  """Functions that Orbax calls in the background, one for each save."""
  monkeypatch.setattr(jax, 'default_backend', lambda: 'tpu')  # which is copied
  original, calls = async_checkpointer._background_wait_for_commit_futures, []

  def commit(*args: Any, **kwargs: Any) -> None:
    calls.pop(0)()
    original(*args, **kwargs)

  monkeypatch.setattr(
    async_checkpointer, '_background_wait_for_commit_futures', commit
  )
  return calls


def test_a_run_goes_on_while_a_checkpoint_is_written(
  tmp_path: pathlib.Path, write: list[Callable[[], None]]
) -> None:
  whole = threading.Event()
  write += [lambda: None, lambda: assert_true(whole.wait(60))]
  checkpoints = Checkpoints(tmp_path)
  for step in 1, 2:
    checkpoints.save(step, PARAMS, REST)
  # a reader, as the run after a kill, finds the one before
  reader = Checkpoints(tmp_path, read_only=True)
  assert reader.latest() == 1
  whole.set()
  checkpoints.close()
  assert saved(tmp_path) == {'1', '2'}


def assert_true(value: bool) -> None:
  assert value


@pytest.mark.parametrize('reported', ['at the next save', 'at the end'])
def test_a_disk_that_fills_in_the_background_is_reported(
  tmp_path: pathlib.Path, write: list[Callable[[], None]], reported: str
) -> None:
  def full() -> None:
    raise OSError(errno.ENOSPC, 'No space left on device')

  write += [lambda: None, full]
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, PARAMS, REST)
  checkpoints.save(2, PARAMS, REST)
  with pytest.raises(OSError, match='are intact.*No space left'):
    if reported == 'at the end':
      checkpoints.close()
    else:
      checkpoints.save(3, PARAMS, REST)
  found = Checkpoints(tmp_path).restore(params=PARAMS)['params']['x']
  assert found.tobytes() == PARAMS['x'].tobytes()
  assert Checkpoints(tmp_path).latest() == 1


SLOW_DISK = """
import pathlib, sys, time
sys.path[:0] = sys.argv[1:3]
import checkpoint_test as test
from rlcw.runtime import signals

original = test.async_checkpointer._background_wait_for_commit_futures
calls = []

def commit(*args, **kwargs):
  calls.append(1)
  if len(calls) == 2:
    print('writing', flush=True)
    time.sleep(60)
  original(*args, **kwargs)

test.async_checkpointer._background_wait_for_commit_futures = commit
with signals.listening():
  test.descend(pathlib.Path(sys.argv[3]))
"""


@pytest.mark.slow
@pytest.mark.parametrize('name', ['SIGKILL', 'SIGTERM'])
def test_an_end_in_the_middle_of_a_save_leaves_the_one_before(
  tmp_path: pathlib.Path, name: str
) -> None:
  """Of two SIGTERMs the second ends a process at once, even while it saves."""
  tests = pathlib.Path(__file__).resolve().parent
  process = subprocess.Popen(
    [
      *(sys.executable, '-c', SLOW_DISK, tests, tests.parents[1]),
      str(tmp_path / 'again'),
    ],
    stdout=subprocess.PIPE,
  )
  assert process.stdout is not None
  while process.stdout.readline() != b'writing\n':
    assert process.poll() is None
  process.send_signal(getattr(signal, name))
  if name == 'SIGTERM':
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
  assert process.wait(30) != 0
  checkpoints = tmp_path / 'again' / 'checkpoints'
  assert Checkpoints(checkpoints, read_only=True).latest() == 2
  assert len(saved(checkpoints)) == 2  # one of them is not whole
  assert descend(tmp_path / 'again') == descend(tmp_path / 'whole')
  assert saved(checkpoints) == {'6', '8'}


def test_the_checksum_is_that_of_the_bits() -> None:
  # words 3, 5, 7 and 9; 1·(1·3 + 3·5) + 3·(1·7 + 3·9) = 120
  words = jnp.array([[3, 5], [7, 9]], jnp.uint32)
  assert checkpoint.checksum([words]) == 120
  # a second leaf counts three times: 120 + 3·(1·2 + 3·1)
  assert checkpoint.checksum([words, jnp.array([2, 1], jnp.int32)]) == 135
  assert checkpoint.checksum([jnp.float32(1.0)]) == 0x3F800000
  assert checkpoint.checksum([jnp.bfloat16(1.0)]) == 0x3F80


def test_the_checksum_sees_each_bit_and_no_sharding() -> None:
  whole = checkpoint.checksum(PARAMS)
  bits = np.asarray(PARAMS['x']).view(np.uint32)
  for place in RNG.integers(bits.size, size=8):
    for bit in range(32):
      other = bits.copy()
      other.flat[place] ^= np.uint32(1 << bit)
      assert checkpoint.checksum({'x': other.view(np.float32)}) != whole
  mesh = make_mesh(2, 2, 2)
  for spec in ('data', 'tensor'), (('data', 'fsdp'), None), (None, 'fsdp'):
    place = jax.NamedSharding(mesh, jax.P(*spec))
    assert checkpoint.checksum(jax.device_put(PARAMS, place)) == whole


def descend(workdir: pathlib.Path, steps: int = 8) -> bytes:
  """Trains with a save every two steps; returns the parameters' bits."""

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    arrays = {'target': jnp.full(2, step, jnp.float32)}
    return train.Batch([train.Minibatch([arrays])], {}, time.perf_counter())

  def loss(params: Any, _: Any, arrays: Any) -> dict[str, losses.Ratio]:
    error = jnp.square(params['x'] - arrays['target'][:, None, None])
    return {'loss': losses.Ratio(error.sum(), jnp.float32(error.size))}

  mesh = make_mesh(devices=jax.devices()[:1])
  params = jax.device_put(jax.tree.map(jnp.copy, PARAMS), replicated(mesh))
  optimizer = optax.adam(0.1)
  state = train.fit(
    params,
    next_batch,
    loss,
    optimizer,
    mesh,
    name='test',
    steps=steps,
    workdir=workdir,
    checkpoint_every=2,
  )
  return state.params['x'].tobytes()


def test_a_run_goes_back_two_saves_and_ends_the_same(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  whole, again = tmp_path / 'whole', tmp_path / 'again'
  descend(again, 6)
  flip(largest(again / 'checkpoints' / '6'))
  assert descend(again) == descend(whole)
  assert 'resumes from step 4 of 8' in capsys.readouterr().out
  rows = datasets.read_jsonl(again / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [*range(8)]
  assert saved(again / 'checkpoints') == {'6', '8'}
