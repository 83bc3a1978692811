"""Real processes on this machine, against one that holds all devices.

Sums over devices are made in another order where they cross processes, so
numbers equal those of one process to float32's rounding, which learning
magnifies from step to step; sampled replies are the same.  A run that was
disturbed equals an undisturbed one of as many processes bit for bit.
"""

import json
import pathlib
import re
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

import hosts
import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from pipeline import run, shipped, tiny_config
from safetensors.numpy import load_file

from rlcw.data import datasets
from rlcw.models import language_model
from rlcw.rewards import reward_model
from rlcw.runtime import files
from rlcw.sampling import prompts

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
    reward_model.save(reward_model.Head(weight_D, np.zeros(())), reward, [1])
    self.model = model

  def config(self, task: str = 'grpo', **changes: Any) -> Any:
    config = tiny_config(task, self.model, self.folder)
    config.steps = STEPS
    if 'checkpoint_every' in config:
      config.checkpoint_every = 2
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
  tiny_folder: pathlib.Path,
  make_llama: Callable[..., Any],
  tmp_path_factory: pytest.TempPathFactory,
) -> Lab:
  # Heads and vocabulary split over eight devices.
  model = tmp_path_factory.mktemp('eight')
  shutil.copytree(tiny_folder, model, dirs_exist_ok=True)
  make_llama(
    vocab_size=304, num_attention_heads=8, num_key_value_heads=8
  ).save_pretrained(model)
  return Lab(tmp_path_factory.mktemp('hosts'), model)


# the model is split in two, and the groups over four pairs of devices
MESH = {'mesh.data': 4, 'mesh.fsdp': 1, 'mesh.tensor': 2}


@pytest.fixture(scope='module')
def stopped(lab: Lab) -> pathlib.Path:
  """The folder of a run of two processes; one was told to stop in step 3."""
  config, run_folder = lab.config(**MESH), lab.folder / 'stopped' / 'run'
  codes = lab.drive('stopped', config, 'TERM:1:3')
  assert codes == [75, 75], lab.told('stopped')[-3000:]
  told = lab.told('stopped')
  assert re.search(
    r'grpo: stopped [\d.]+ s after the signal: step 2 of 4', told
  )
  assert not (run_folder / 'summary.json').exists()
  assert len(replies(run_folder)) == 2 * 8
  assert lab.drive('stopped', config) == [0, 0]
  return run_folder


@pytest.fixture(scope='module')
def two(lab: Lab) -> pathlib.Path:
  """The folder of an undisturbed run of two processes."""
  codes = lab.drive('two', lab.config(**MESH))
  assert codes == [0, 0], lab.told('two')[-3000:]
  return lab.folder / 'two' / 'run'


def final_params(folder: pathlib.Path) -> list[np.ndarray]:
  """What was learned, whatever processes and devices saved it."""
  config = language_model.run_config(folder)
  assert config is not None
  mesh = Mesh(
    np.array(jax.devices()[:1]).reshape(1, 1, 1), ('data', 'fsdp', 'tensor')
  )
  _, learned = language_model.restore(
    folder, language_model.load(config.model, mesh)
  )
  return [np.asarray(leaf) for leaf in jax.tree.leaves(learned)]


def replies(folder: pathlib.Path) -> list[Any]:
  """What was written, to which brief, in order."""
  return [
    (group['step'], group['brief_id'], [r['text'] for r in group['replies']])
    for group in datasets.read_jsonl(folder / 'rollouts.jsonl')
  ]


def numbers(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Every column of metrics but times, and of what a reply is worth."""
  rows = datasets.read_jsonl(folder / 'metrics.jsonl')
  columns = {
    # the first row alone has the evaluation before it
    name: np.array([row.get(name, np.nan) for row in rows], float)
    for name in rows[0]
    if 'second' not in name and name != 'compilations'
  }
  for name in ('writing', 'reward', 'advantage', 'violated', 'valid', 'length'):
    columns[f'reply {name}'] = np.array(
      [
        [reply[name] for reply in group['replies']]
        for group in datasets.read_jsonl(folder / 'rollouts.jsonl')
      ],
      float,
    )
  return columns


def assert_alike(
  ours: pathlib.Path, theirs: pathlib.Path, atol: float = 1e-4
) -> None:
  """Equal but for the rounding of sums."""
  assert replies(ours) == replies(theirs)
  mine, other = numbers(ours), numbers(theirs)
  assert list(mine) == list(other)
  for name in mine:
    np.testing.assert_allclose(
      mine[name], other[name], rtol=1e-3, atol=1e-4, err_msg=name
    )
  for x, y in zip(final_params(ours), final_params(theirs), strict=True):
    np.testing.assert_allclose(x, y, atol=atol)


def assert_same(ours: pathlib.Path, theirs: pathlib.Path) -> None:
  """Equal to the last bit."""
  rollouts = [(f / 'rollouts.jsonl').read_bytes() for f in (ours, theirs)]
  assert rollouts[0] == rollouts[1]
  mine, other = numbers(ours), numbers(theirs)
  for name in mine:
    np.testing.assert_array_equal(mine[name], other[name], err_msg=name)
  for x, y in zip(final_params(ours), final_params(theirs), strict=True):
    assert x.tobytes() == y.tobytes()


@pytest.mark.slow
def test_two_processes_equal_one_although_told_to_stop(
  lab: Lab, stopped: pathlib.Path
) -> None:
  assert len(replies(stopped)) == STEPS * 8
  assert_alike(stopped, lab.alone('one', lab.config(**MESH)))
  # the first process alone has told of it, once
  summary = json.loads((stopped / 'summary.json').read_text())
  assert summary['steps'] == STEPS
  rows = datasets.read_jsonl(stopped / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [*range(STEPS)]
  assert len([*(stopped / 'tensorboard').iterdir()]) == 2
  told = [lab.told('stopped', process) for process in (0, 1)]
  assert 'resumes from step 2 of 4' in told[0] and 'grpo' not in told[1]


@pytest.mark.slow
def test_a_stopped_run_equals_an_undisturbed_one(
  lab: Lab, stopped: pathlib.Path, two: pathlib.Path
) -> None:
  assert_same(stopped, two)
  assert lab.drive('two', lab.config(**MESH)) == [0, 0]  # done is done
  assert 'already done' in lab.told('two')


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
  assert 'resumes from step 2 of 4' in lab.told(name)
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
  # Each mesh sums in another order, and Adam's first steps are as large for a
  # gradient that is rounding as for any other.  A larger learning rate lets
  # that change a draw.
  config = lab.config(learning_rate=1e-4, **dict(axes))
  name = f'{count}_{mesh}'
  codes = lab.drive(name, config, count=count, devices=8 // count)
  assert codes == [0] * count, lab.told(name)[-3000:]
  alone = lab.alone(f'one_{name}', config)
  # Parameters move a tenth as far as in the other tests.
  assert_alike(lab.folder / name / 'run', alone, atol=1e-5)


def questions_about(group: dict[str, Any]) -> int:
  """Comparisons of a group's replies: two for each pair that differs."""
  seen = [prompts.visible(reply['text']).strip() for reply in group['replies']]
  return sum(
    won is not None and one != other
    for one, reply in zip(seen, group['replies'], strict=True)
    for other, won in zip(seen, reply.get('against', ()), strict=False)
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'writing',
  ['reward_model', 'reward_model + 2*rubric', 'reward_model + pairs'],
)
def test_each_process_asks_judges_of_its_own_replies(
  lab: Lab, make_judge: Callable[[str], pathlib.Path], writing: str
) -> None:
  """A judge here for demands and rubrics, which few briefs have.

  The reward model has another decoder.

  It gives the monitors' second opinion, too.
  """
  briefs = [
    {
      'id': f'b{i}',
      'prompt': 'Write ' + 'a long ' * (i % 5) + 'letter to the sea.',
      'instruction_id_list': ['soft:demand'] if i % 7 == 0 else [],
      'kwargs': [{'demand': 'It is warm.'}] if i % 7 == 0 else [],
      'rubric': [{'criterion': 'It is warm.', 'weight': 1}] * (i % 7 == 1),
    }
    for i in range(24)
  ]
  file = lab.folder / 'demands.jsonl'
  file.write_bytes(b''.join(map(files.json_line, briefs)))
  name = 'judged_' + writing.rpartition(' ')[2].strip('2*')
  other = lab.folder / f'other_{name}'
  shutil.copytree(lab.model, other / 'model')
  shutil.copytree(lab.folder / 'reward_model', other / 'reward_model')
  settings = json.loads((other / 'reward_model' / 'config.json').read_text())
  settings['model'] = str(other / 'model')
  (other / 'reward_model' / 'config.json').write_text(json.dumps(settings))
  config = lab.config(
    **MESH,
    briefs=str(file),
    reward_model=str(other / 'reward_model'),
    writing=writing,
    **{'judge.model': str(make_judge('llama'))},
  )
  assert lab.drive(name, config) == [0, 0], lab.told(name)[-3000:]
  ours = lab.folder / name / 'run'
  assert_alike(ours, lab.alone(f'one_{name}', config))
  read = (0, 1) if 'rubric' in writing else (0,)
  asked = sum(int(brief[1:]) % 7 in read for _, brief, _ in replies(ours))
  told = sum(
    r['judge_questions'] for r in datasets.read_jsonl(ours / 'metrics.jsonl')
  )
  monitored = 2 * 8  # in steps 0 and 2, a reply to each brief
  compared = sum(
    map(questions_about, datasets.read_jsonl(ours / 'rollouts.jsonl'))
  )
  assert (compared > 0) == ('pairs' in writing)
  assert told == 4 * asked + monitored + compared > monitored


@pytest.mark.slow
def test_processes_fit_one_reward_model_anew(
  lab: Lab, make_judge: Callable[[str], pathlib.Path]
) -> None:
  """One of them is told to stop after the first fit."""
  judge = {'judge.model': str(make_judge('llama')), 'refit.every': 2}
  config = lab.config(**MESH, **judge)
  assert lab.drive('refitted', config, 'TERM:1:3') == [75, 75]
  assert lab.drive('refitted', config) == [0, 0], lab.told('refitted')[-999:]
  ours = lab.folder / 'refitted' / 'run'
  assert_alike(ours, lab.alone('one_refitted', config))
  compared = numbers(ours)['refit_pairs']
  np.testing.assert_array_equal(compared > 0, [True, False, True, False])


@pytest.mark.slow
def test_processes_share_the_held_out_briefs(lab: Lab) -> None:
  """One of them is told to stop in the second evaluation."""
  config = lab.config(
    **MESH,
    eval_every=1,
    initial_eval=True,
    keep='best:eval/unseen',
    **{
      'eval.unseen': str(lab.folder / 'reward_model'),
      'eval.briefs': 12,
      'eval.temperature': 1.0,
      'eval.replies_per_brief': 2,
      'eval.batch_size': 8,
    },
  )
  # Two batches of 8 before each step: the base's, a step, an evaluation, …
  assert lab.drive('evaluated', config, 'TERM:1:7') == [75, 75]
  assert lab.drive('evaluated', config) == [0, 0], lab.told('evaluated')[-999:]
  ours = lab.folder / 'evaluated' / 'run'
  theirs = lab.alone('one_evaluated', config)
  assert_alike(ours, theirs)
  logs = [datasets.read_jsonl(f / 'evaluations.jsonl') for f in (ours, theirs)]
  texts = [[r['text'] for x in log for r in x['replies']] for log in logs]
  assert len(texts[0]) == 24 * (1 + STEPS) and texts[0] == texts[1]
  best = [
    json.loads((f / 'summary.json').read_text())['best'] for f in (ours, theirs)
  ]
  assert best[0]['step'] == best[1]['step']
  for x, y in zip(
    *(final_params(f / 'best') for f in (ours, theirs)), strict=True
  ):
    np.testing.assert_allclose(x, y, atol=1e-4)


@pytest.mark.slow
def test_a_warning_stops_all_processes(lab: Lab, two: pathlib.Path) -> None:
  # Every change of the length warns, from the second step on.
  watched = {
    'monitors.stop': True,
    'monitors.window': 1,
    'monitors.length': 1.0,
  }
  config, run_folder = lab.config(**MESH, **watched), lab.folder / 'warned/run'
  assert lab.drive('warned', config) == [76, 76], lab.told('warned')[-3000:]
  told = lab.told('warned')
  assert re.search(
    r'grpo: stopped [\d.]+ s after the warning: step \d of 4 is saved', told
  )
  assert told.count('rlcw: stopped by monitor length at step 1: value ') == 1
  assert not (run_folder / 'summary.json').exists()
  while (codes := lab.drive('warned', config)) == [76, 76]:
    pass
  assert codes == [0, 0], lab.told('warned')[-3000:]
  assert_same(run_folder, two)


@pytest.mark.slow
def test_processes_share_notes_and_demonstrations(lab: Lab) -> None:
  """One of them is told to stop; the reward model reads plain briefs."""
  lines = [
    {
      'id': f'{n}',
      'prompt': f'Write a note on {n} boats.',
      'instruction_id_list': ['punctuation:no_exclamation'],
      'kwargs': [{}],
      **({'response': 'Boats.' + '!' * (n % 2)} if n % 3 else {}),
    }
    for n in range(16)
  ]
  file = lab.folder / 'shown.jsonl'
  file.write_bytes(b''.join(map(files.json_line, lines)))
  config = lab.config(
    **MESH,
    briefs=str(file),
    heldout=0.0,
    tell_scoring=True,
    demonstration_weight=1.0,
    demonstration_warmup=2,
    updates_per_rollout=2,
    prompts_per_step=8,
    microbatch_groups=4,
  )
  assert lab.drive('shown', config, 'TERM:1:3') == [75, 75]
  assert lab.drive('shown', config) == [0, 0], lab.told('shown')[-999:]
  ours, theirs = lab.folder / 'shown' / 'run', lab.alone('one_shown', config)
  assert_alike(ours, theirs)
  groups = datasets.read_jsonl(ours / 'rollouts.jsonl')
  shown = [each['demonstration'] for each in groups if 'demonstration' in each]
  assert any(each['violated'] for each in shown)
  assert not any(each['advantage'] for each in shown if each['violated'])
  assert any(each['advantage'] for each in shown)


@pytest.mark.slow
@pytest.mark.parametrize(
  ('task', 'changes'),
  [
    ('sft', {'row_tokens': 320}),
    ('reward_model', {'decoder.steps': 3, 'train': 'lora', 'steps': 20}),
  ],
)
def test_other_training_equals_that_of_one_process(
  lab: Lab, task: str, changes: dict[str, Any]
) -> None:
  config = lab.config(task, **MESH, **changes)
  codes = lab.drive(task, config)
  assert codes == [0, 0], lab.told(task)[-3000:]
  ours = lab.folder / task / 'run'
  theirs = lab.alone(f'one_{task}', config)
  rows = [datasets.read_jsonl(f / 'metrics.jsonl') for f in (ours, theirs)]
  assert [row['step'] for row in rows[0]] == [row['step'] for row in rows[1]]
  for mine, other in zip(*rows, strict=True):
    assert mine['loss'] == pytest.approx(other['loss'], rel=1e-3)
  summaries = [
    json.loads((f / 'summary.json').read_text()) for f in (ours, theirs)
  ]
  for name, value in summaries[1].items():
    if isinstance(value, float) and 'seconds' not in name and 'gib' not in name:
      assert summaries[0][name] == pytest.approx(value, abs=1e-3), name


# Task: its settings beside those of a mesh, and the file that it writes.  RUNS
# is the folder of `read`.
READING: dict[str, tuple[dict[str, Any], str]] = {
  'generate': (
    {'model': 'MODEL', 'samples': 2, 'max_new_tokens': 8, 'batch_size': 8},
    'replies.jsonl',
  ),
  'score': ({'run': 'RUNS/reward_model', 'batch_size': 4}, 'scores.jsonl'),
  'judge': ({'judge.model': 'JUDGE', 'batch_size': 4}, 'verdicts.jsonl'),
  'verify': ({'judge.model': 'JUDGE'}, 'verdicts.jsonl'),
  'evaluate': (
    {
      'run': 'RUNS/rlmr-0',
      'judge.model': 'JUDGE',
      'replies_per_brief': 2,
      'batch_size': 16,
      'compute_dtype': 'float32',
    },
    'evaluation.jsonl',
  ),
  'compare': (
    {
      'runs': 'RUNS/rlmr-*',
      'unseen': 'RUNS/reward_model',
      'judge.model': 'JUDGE',
      'replies_per_brief': 2,
      'batch_size': 16,
    },
    'replies/rlmr-0.jsonl',
  ),
  'export': ({'model': 'RUNS/rlmr-0'}, 'model/model.safetensors'),
}


@pytest.fixture(scope='module')
def read(
  lab: Lab, two: pathlib.Path, make_judge: Callable[[str], pathlib.Path]
) -> dict[str, str]:
  """What the settings of `READING` stand for."""
  runs = lab.folder / 'runs'
  shutil.copytree(two, runs / 'rlmr-0')
  shutil.copytree(lab.folder / 'reward_model', runs / 'reward_model')
  records = [
    {
      'prompt': 'Write ' + 'a long ' * (n % 5) + 'letter to the sea.',
      'response': 'wave ' * (1 + 3 * n),
      'instruction_id_list': ['soft:demand', 'punctuation:no_comma'][n % 2 :],
      'kwargs': [{'demand': 'It is warm.'}, {}][n % 2 :],
    }
    for n in range(11)
  ]
  (runs / 'in.jsonl').write_bytes(b''.join(map(files.json_line, records)))
  return {
    'MODEL': str(lab.model),
    'JUDGE': str(make_judge('llama')),
    'RUNS': str(runs),
  }


def assert_close(ours: Any, theirs: Any, place: str = '') -> None:
  """Equal but for the rounding of sums, and times."""
  if isinstance(theirs, dict):
    assert ours.keys() == theirs.keys(), place
    for name in theirs:
      if not any(word in name for word in ('second', 'gib', 'hardware')):
        assert_close(ours[name], theirs[name], f'{place}.{name}')
  elif isinstance(theirs, list):
    assert len(ours) == len(theirs), place
    for n, pair in enumerate(zip(ours, theirs, strict=True)):
      assert_close(*pair, f'{place}[{n}]')
  elif isinstance(theirs, float) and isinstance(ours, float):
    assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-3), place
  else:
    assert ours == theirs, place


@pytest.mark.slow
@pytest.mark.parametrize(
  ('task', 'count', 'mesh'),
  [
    *((task, 2, (4, 1, 2)) for task in READING),
    ('generate', 4, (1, 4, 2)),
    ('judge', 4, (2, 1, 4)),  # two processes split the model of a part
    ('evaluate', 4, (1, 4, 2)),
    ('export', 4, (1, 1, 8)),
  ],
)
def test_what_several_processes_read_one_reads(
  lab: Lab,
  read: dict[str, str],
  task: str,
  count: int,
  mesh: tuple[int, int, int],
) -> None:
  changes, output = READING[task]
  for word, path in read.items():
    changes = {
      name: value.replace(word, path) if isinstance(value, str) else value
      for name, value in changes.items()
    }
  config, name = shipped(task), f'read_{task}_{count}'
  if 'input' in config:
    config.input = f'{read["RUNS"]}/in.jsonl'
  axes = zip(('mesh.data', 'mesh.fsdp', 'mesh.tensor'), mesh, strict=True)
  config.update_from_flattened_dict(changes | dict(axes))
  codes = lab.drive(name, config, count=count, devices=8 // count)
  assert codes == [0] * count, lab.told(name)[-3000:]
  ours = lab.folder / name / 'run'
  theirs = lab.alone(f'one_{name}', config)
  if task == 'export':
    mine, other = (load_file(f / output) for f in (ours, theirs))
    assert mine.keys() == other.keys()
    for key, tensor in other.items():
      np.testing.assert_array_equal(mine[key], tensor, key)
  else:
    rows = [datasets.read_jsonl(f / output) for f in (ours, theirs)]
    assert_close(*rows)
  summaries = [
    json.loads((f / 'summary.json').read_text()) for f in (ours, theirs)
  ]
  for each in summaries:
    each.pop('folder', None)
  assert_close(*summaries)
  # the first process alone has written and told of it
  assert not [f for f in ours.rglob('*.partial')]
  assert task not in lab.told(name, count - 1)


@pytest.mark.slow
def test_an_error_ends_all_processes_that_read_alike(
  lab: Lab, read: dict[str, str]
) -> None:
  config, name = shipped('score'), 'read_error'
  bad = lab.folder / 'bad.jsonl'
  bad.write_text('{"prompt": "To the sea"}\n')
  config.update({'input': str(bad), 'run': f'{read["RUNS"]}/reward_model'})
  assert lab.drive(name, config) == [1, 1]
  for process in (0, 1):
    assert 'bad.jsonl:1' in lab.told(name, process)
  # as does one that only the first process can see
  config.input = f'{read["RUNS"]}/in.jsonl'
  workdir = lab.folder / 'read_other' / 'run'
  workdir.mkdir(parents=True)
  (workdir / 'scores.jsonl').write_text('{"other": 1}\n')
  assert lab.drive('read_other', config) == [1, 1]
  for process in (0, 1):
    assert "lines without 'score'" in lab.told('read_other', process)
