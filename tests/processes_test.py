"""Real processes on this machine, against one that holds all devices.

Sums over devices are made in another order where they cross processes, so
numbers equal those of one process to float32's rounding, which learning
magnifies from step to step; sampled replies are the same.  A run that was
disturbed equals an undisturbed one of as many processes bit for bit.
"""

import json
import pathlib
import signal
import time
from types import SimpleNamespace
from typing import Any

import hosts
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl import app
from jax.sharding import Mesh
from pipeline import run, tiny_config

from rlcw import data, losses, main, metrics, policy, processes, sharding, train
from rlcw.rewards import writing

STEPS = 4
HEARTBEAT = 10


class Lab:
  """A folder with a model, a reward model and the settings of a run."""

  def __init__(self, folder: pathlib.Path, model: pathlib.Path):
    self.folder = folder
    reward = folder / 'reward_model'
    (reward / 'checkpoints').mkdir(parents=True)
    settings = tiny_config('reward_model', model, folder)
    (reward / 'config.json').write_text(settings.to_json())
    weight_D = np.random.default_rng(0).normal(size=32)
    writing.save(writing.Head(weight_D, np.zeros(())), reward)
    self.model = model

  def config(self, task: str = 'grpo', **changes: Any) -> Any:
    config = tiny_config(task, self.model, self.folder)
    for key, value in {'steps': STEPS, 'checkpoint_every': 2}.items():
      config[key] = value
    config.update_from_flattened_dict(changes)
    return config

  def flags(self, name: str, config: Any) -> list[str]:
    """What the command line gets, to run it in a folder of that name."""
    file = self.folder / f'{name}.py'
    file.write_text(
      'import json\nfrom ml_collections import ConfigDict\n\n'
      f'def get_config():\n  return ConfigDict(json.loads('
      f'{config.to_json()!r}))\n'
    )
    workdir = self.folder / name / 'run'
    return [
      f'--config={file}',
      f'--workdir={workdir}',
      f'--heartbeat={HEARTBEAT}',
    ]

  def drive(
    self,
    name: str,
    config: Any,
    point: str = 'undisturbed',
    count: int = 2,
    devices: int = 4,
  ) -> list[int]:
    """Exit codes of processes that run it together."""
    started = hosts.start(
      self.folder / name, point, self.flags(name, config), count, devices
    )
    return hosts.wait(started, 600)

  def told(self, name: str, process: int = 0) -> str:
    """What a process printed."""
    log = self.folder / name / f'{process}.log'
    return log.read_text(errors='replace')

  def alone(self, name: str, config: Any) -> pathlib.Path:
    """The same run in this process, which holds all devices."""
    run(config.task, config, self.folder / name / 'run')
    return self.folder / name / 'run'


@pytest.fixture(scope='module')
def lab(
  tiny_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> Lab:
  return Lab(tmp_path_factory.mktemp('hosts'), tiny_folder)


# the model is split in two, and the groups over four pairs of devices
MESH = {'mesh.data': 4, 'mesh.fsdp': 1, 'mesh.tensor': 2}


@pytest.fixture(scope='module')
def two(lab: Lab) -> pathlib.Path:
  """The folder of an undisturbed run of two processes."""
  codes = lab.drive('two', lab.config(**MESH))
  assert codes == [0, 0], lab.told('two')[-3000:]
  return lab.folder / 'two' / 'run'


def final_params(folder: pathlib.Path) -> list[np.ndarray]:
  """What was learned, whatever processes and devices saved it."""
  config = policy.settings(folder)
  assert config is not None
  mesh = Mesh(
    np.array(jax.devices()[:1]).reshape(1, 1, 1), ('data', 'fsdp', 'tensor')
  )
  _, learned = policy.restore(folder, policy.load(config.model, mesh))
  return [np.asarray(leaf) for leaf in jax.tree.leaves(learned)]


def replies(folder: pathlib.Path) -> list[Any]:
  """What was written, to which brief, in order."""
  return [
    (group['step'], group['brief_id'], [r['text'] for r in group['replies']])
    for group in data.read_jsonl(folder / 'rollouts.jsonl')
  ]


def numbers(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Every column of metrics but times, and of what a reply is worth."""
  rows = data.read_jsonl(folder / 'metrics.jsonl')
  columns = {
    name: np.array([row[name] for row in rows], float)
    for name in rows[0]
    if 'second' not in name and name != 'compilations'
  }
  for name in ('writing', 'reward', 'advantage', 'violated', 'valid', 'length'):
    columns[f'reply {name}'] = np.array(
      [
        [reply[name] for reply in group['replies']]
        for group in data.read_jsonl(folder / 'rollouts.jsonl')
      ],
      float,
    )
  return columns


def assert_alike(ours: pathlib.Path, theirs: pathlib.Path) -> None:
  """Equal but for the rounding of sums."""
  assert replies(ours) == replies(theirs)
  mine, other = numbers(ours), numbers(theirs)
  assert list(mine) == list(other)
  for name in mine:
    np.testing.assert_allclose(
      mine[name], other[name], rtol=1e-3, atol=1e-4, err_msg=name
    )
  for x, y in zip(final_params(ours), final_params(theirs), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-4)


def assert_same(ours: pathlib.Path, theirs: pathlib.Path) -> None:
  """Equal to the last bit."""
  rollouts = [(f / 'rollouts.jsonl').read_bytes() for f in (ours, theirs)]
  assert rollouts[0] == rollouts[1]
  mine, other = numbers(ours), numbers(theirs)
  for name in mine:
    np.testing.assert_array_equal(mine[name], other[name], err_msg=name)
  for x, y in zip(final_params(ours), final_params(theirs), strict=True):
    assert x.tobytes() == y.tobytes()


def test_two_processes_equal_one(lab: Lab, two: pathlib.Path) -> None:
  assert len(replies(two)) == STEPS * 8
  assert_alike(two, lab.alone('one', lab.config(**MESH)))
  # the first process alone has told of it, once
  summary = json.loads((two / 'summary.json').read_text())
  assert summary['steps'] == STEPS
  rows = data.read_jsonl(two / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [*range(STEPS)]
  assert len([*(two / 'tensorboard').iterdir()]) == 1
  assert 'grpo' in lab.told('two', 0) and 'grpo' not in lab.told('two', 1)
  # and done is done, for both
  assert lab.drive('two', lab.config(**MESH)) == [0, 0]
  assert 'already done' in lab.told('two')


def test_a_notice_to_one_process_saves_and_stops_both(
  lab: Lab, two: pathlib.Path
) -> None:
  config, run_folder = lab.config(**MESH), lab.folder / 'notice' / 'run'
  assert lab.drive('notice', config, 'TERM:1:3') == [0, 0]
  assert 'told to stop; 3 of 4 steps are saved' in lab.told('notice')
  assert not (run_folder / 'summary.json').exists()
  assert len(replies(run_folder)) == 3 * 8
  assert lab.drive('notice', config) == [0, 0]
  assert_same(run_folder, two)


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_where_one_process_is_killed_all_end_and_begin_again(
  lab: Lab, two: pathlib.Path, victim: int
) -> None:
  config, name = lab.config(**MESH), f'killed{victim}'
  flags = lab.flags(name, config)
  started = hosts.start(lab.folder / name, f'KILL:{victim}:4', flags)
  assert started[victim].wait(600) == -signal.SIGKILL
  killed = time.monotonic()
  codes = hosts.wait(started, 3 * HEARTBEAT)
  assert time.monotonic() - killed < 3 * HEARTBEAT
  assert codes[1 - victim] not in (0, -signal.SIGKILL)
  assert 'rror' in lab.told(name, 1 - victim)
  run_folder = lab.folder / name / 'run'
  assert not (run_folder / 'summary.json').exists()
  assert lab.drive(name, config) == [0, 0]
  assert 'goes on from step 2 of 4' in lab.told(name)
  assert_same(run_folder, two)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('count', 'mesh'),
  [
    (4, (4, 1, 2)),  # each process has a part
    (4, (2, 1, 4)),  # two processes split the model of a part
    (2, (1, 1, 8)),  # both of them split one model
    (2, (2, 2, 2)),
  ],
)
def test_however_the_mesh_lies_on_the_processes(
  lab: Lab, count: int, mesh: tuple[int, int, int]
) -> None:
  axes = zip(('mesh.data', 'mesh.fsdp', 'mesh.tensor'), mesh, strict=True)
  config, name = lab.config(**dict(axes)), f'{count}_{mesh}'
  codes = lab.drive(name, config, count=count, devices=8 // count)
  assert codes == [0] * count, lab.told(name)[-3000:]
  assert_alike(lab.folder / name / 'run', lab.alone(f'one_{name}', config))


# --- In this process ---------------------------------------------------------


def scalar_loss(params: Any, arrays: Any) -> dict[str, losses.Ratio]:
  error = jnp.square(params['x'] - arrays['target'])
  return {'loss': losses.Ratio(error.sum(), jnp.float32(error.size))}


def descend(workdir: pathlib.Path, notice_at: int | None = None) -> float:
  """Four steps to 0, in one of which a SIGTERM may come."""

  def next_batch(state: train.TrainState, step: int) -> train.Batch:
    if step == notice_at:
      signal.raise_signal(signal.SIGTERM)
    return train.Batch({'target': jnp.zeros(2)}, {}, time.perf_counter())

  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  params = jax.device_put({'x': jnp.float32(1.0)}, sharding.replicated(mesh))
  optimizer = optax.sgd(0.2)
  state = train.fit(
    train.init_state(params, optimizer, mesh),
    next_batch,
    scalar_loss,
    optimizer,
    name='test',
    steps=4,
    workdir=workdir,
    checkpoint_every=100,
  )
  return float(state.params['x'])


@pytest.mark.parametrize('step', [0, 1, 3])
def test_a_notice_ends_a_lone_run_that_goes_on_from_there(
  tmp_path: pathlib.Path, step: int
) -> None:
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(processes.Preempted) as stopped:
    descend(tmp_path / 'a', notice_at=step)
  assert stopped.value.code == 0
  assert signal.getsignal(signal.SIGTERM) == before
  saved = train.Checkpoints(tmp_path / 'a' / 'checkpoints')
  assert saved.latest() == step + 1  # the step in which it came, no more
  saved.close()
  assert descend(tmp_path / 'a') == descend(tmp_path / 'b')
  rows = data.read_jsonl(tmp_path / 'a' / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [0, 1, 2, 3]


def test_a_notice_after_the_last_question_is_passed_on() -> None:
  heard: list[int] = []
  before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
  try:
    with processes.notice() as told:
      assert not told()
      signal.raise_signal(signal.SIGTERM)
      assert heard == []
    assert heard == [signal.SIGTERM]
  finally:
    signal.signal(signal.SIGTERM, before)


def test_one_process_gathers_what_it_gave() -> None:
  parts = processes.Parts(sharding.make_mesh(2, 2, 2))
  rows = np.arange(8.0)
  assert processes.count() == 1 and parts.share == (0, 1)
  for function in (processes.gather, parts.gather, parts.collect):
    (given,) = function(rows)
    assert given is rows
  assert parts.mine(rows).tolist() == rows.tolist()
  spread = parts.spread(rows)
  assert parts.own(spread) is spread
  assert spread.sharding == sharding.over_groups(sharding.make_mesh(2, 2, 2))


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
  monkeypatch.setattr(sharding, 'over_groups', lambda mesh: None)
  mesh = fake_mesh(shape, per_process)
  if speakers is None:
    with pytest.raises(ValueError, match='tensor axis'):
      processes.Parts(mesh)
  else:
    assert processes.Parts(mesh).speakers == speakers


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
    processes.start(False, HEARTBEAT)


def test_a_task_for_one_process_is_refused_to_several(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  monkeypatch.setattr(processes, 'count', lambda: 2)
  with pytest.raises(app.UsageError, match="evaluate.*'sft'.*'grpo'"):
    main.begin({'task': 'evaluate'}, tmp_path)
  monkeypatch.setattr(processes, 'gather', lambda mine: [mine, {'task': 'sft'}])
  with pytest.raises(app.UsageError, match='different settings'):
    main.begin({'task': 'grpo'}, tmp_path)
  assert not [*tmp_path.iterdir()]


def test_only_the_first_process_writes_and_prints(
  monkeypatch: pytest.MonkeyPatch,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture,
) -> None:
  monkeypatch.setattr(metrics, 'speaks', lambda: False)
  metrics.append_jsonl(tmp_path / 'a.jsonl', {'a': 1})
  metrics.write_json(tmp_path / 'a.json', {'a': 1})
  with metrics.Writer(tmp_path) as write:
    write(0, {'loss': 1.0})
  metrics.say('a')
  assert [*metrics.progress('a', 0, 3, 'step')] == [0, 1, 2]
  assert not [*tmp_path.iterdir()]
  assert capsys.readouterr() == ('', '')
