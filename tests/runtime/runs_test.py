"""Reading runs: from any folder, unfinished, moved, and circular ones."""

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from ml_collections import ConfigDict

from rlcw.models import formats, language_model
from rlcw.runtime import files, inputs, paths, runs, settings


def make_run(folder: pathlib.Path, step: int = 0, **config: Any) -> str:
  """Makes the workdir of a training run that has saved a step, if any."""
  if step:
    saved = folder / 'checkpoints' / str(step)
    saved.mkdir(parents=True)
    (saved / 'params').write_text(f'params {step}')
  folder.mkdir(exist_ok=True)
  config = {'task': 'grpo', 'steps': 32} | config
  files.write_json(folder / 'config.json', config)
  return str(folder)


# --- Paths ------------------------------------------------------------------


def test_paths_are_made_absolute_and_names_are_not(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  for name in ('a.gguf', 'runs/r-0', 'm'):
    (tmp_path / name).mkdir(parents=True)
  kept = {
    'briefs': '@briefs.jsonl',
    'examples': 'tfds:rlcw_greetings/sft',
    'reward_model': 'org/name@main',
    'language': 'm',
    'preferences': '',
    'steps': 3,
  }
  config = ConfigDict(
    kept
    | {
      'model': 'a.gguf',
      'runs': 'runs/*-[0-9]',
      'output': 'new.jsonl',
      'judge': {
        'model': './m',
        'cache': 'c.sqlite',
        'principles': '@principles_writing_en',
        'endpoint': {'model': 'm', 'url': ''},
      },
    }
  )
  paths.make_absolute(config)
  here = str(tmp_path)
  assert config.to_dict() == kept | {
    'model': f'{here}/a.gguf',
    'runs': f'{here}/runs/*-[0-9]',
    'output': f'{here}/new.jsonl',
    'judge': {
      'model': f'{here}/m',
      'cache': f'{here}/c.sqlite',
      'principles': '@principles_writing_en',
      'endpoint': {'model': 'm', 'url': ''},
    },
  }


def test_an_old_run_finds_its_relative_paths_from_any_folder(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  (tmp_path / 'models').mkdir()
  (tmp_path / 'models' / 'a.gguf').write_text('a')
  make_run(_parents(tmp_path / 'runs' / 'x'), model='models/a.gguf')
  for folder in (tmp_path, tmp_path / 'runs', pathlib.Path('/')):
    monkeypatch.chdir(folder)
    workdir = os.path.relpath(tmp_path / 'runs' / 'x', folder)
    model = settings.read(workdir).model
    assert model == str(tmp_path / 'models' / 'a.gguf')


def test_a_run_that_moved_with_its_inputs_finds_them(
  tmp_path: pathlib.Path,
) -> None:
  old = tmp_path / 'old'
  make_run(_parents(old / 'runs' / 'x'), 3, model=str(old / 'models' / 'a'))
  home = {'workdir': str(old / 'runs' / 'x'), 'inputs': {}}
  files.write_json(old / 'runs' / 'x' / 'inputs.json', home)
  (old / 'models' / 'a').mkdir(parents=True)
  shutil.move(old, tmp_path / 'new')
  model = settings.read(tmp_path / 'new' / 'runs' / 'x').model
  assert model == str(tmp_path / 'new' / 'models' / 'a')


def _parents(folder: pathlib.Path) -> pathlib.Path:
  folder.parent.mkdir(parents=True, exist_ok=True)
  return folder


# --- States -----------------------------------------------------------------


@pytest.mark.parametrize('begun', [False, True])
def test_a_run_without_a_model_says_how_to_finish_it(
  begun: bool, tmp_path: pathlib.Path
) -> None:
  run = make_run(tmp_path / 'a run', model='org/name')
  if begun:  # and stopped before the first checkpoint
    (tmp_path / 'a run' / 'checkpoints').mkdir()
  message = (
    r'has not finished \(0 of 32 steps are saved\).*rlcw '
    r"--config=configs/grpo\.py --workdir='.*a run'"
  )
  for read in (
    lambda: language_model.load(run, None),  # pyright: ignore
    lambda: language_model.restore(run, None),  # pyright: ignore
    lambda: formats.digest(run),
  ):
    with pytest.raises(FileNotFoundError, match=message):
      read()
  files.write_json(tmp_path / 'a run' / 'inputs.json', {'command': 'rlcw -x'})
  with pytest.raises(FileNotFoundError, match='to finish it: rlcw -x'):
    language_model.origin(run)


@pytest.mark.parametrize('steps', [None, 'x', 3.0, True])
def test_steps_that_are_no_integer_are_named(
  steps: Any, tmp_path: pathlib.Path
) -> None:
  run = make_run(tmp_path, steps=steps)
  with pytest.raises(ValueError, match=r'config\.json: steps=.*an integer'):
    settings.read(run)


def test_a_run_of_a_task_without_a_model_is_named(
  tmp_path: pathlib.Path,
) -> None:
  files.write_json(tmp_path / 'config.json', {'task': 'evaluate', 'run': 'x'})
  with pytest.raises(ValueError, match="run of 'evaluate', which has no model"):
    language_model.origin(tmp_path)


@pytest.mark.parametrize(
  ('changes', 'steps'),
  [
    ({}, 32),
    ({'task': 'reward_model', 'train': 'head', 'decoder': {'steps': 5}}, 32),
    ({'task': 'reward_model', 'train': 'lora', 'decoder': {'steps': 5}}, 5),
  ],
)
def test_the_state_of_a_run(
  tmp_path: pathlib.Path, changes: dict[str, Any], steps: int
) -> None:
  run = make_run(tmp_path / 'run', 4, **changes)
  (tmp_path / 'run' / 'checkpoints' / '5.orbax-checkpoint-tmp-1').mkdir()
  assert runs.state(run) == (run, 4, steps, False)
  files.write_json(tmp_path / 'run' / 'summary.json', {'steps': 4})
  assert runs.state(run) == (run, 4, steps, True)
  assert runs.state(tmp_path) is None


def test_a_models_folder_is_no_run(tiny_folder: pathlib.Path) -> None:
  assert not runs.is_run(tiny_folder)
  assert language_model.origin(tiny_folder) == str(tiny_folder)


@pytest.mark.parametrize('chain', [['a'], ['a', 'b'], ['a', 'b', 'c']])
def test_runs_that_began_with_themselves_are_named(
  tmp_path: pathlib.Path, chain: list[str]
) -> None:
  for name, next_name in zip(chain, [*chain[1:], 'a'], strict=True):
    make_run(tmp_path / name, 1, model=str(tmp_path / next_name))
  outer = make_run(tmp_path / 'outer', 1, model=str(tmp_path / 'a'))
  for read in (
    runs.lineage,
    language_model.origin,
    formats.digest,
    inputs.digest,
    lambda model: language_model.load(model, None),  # pyright: ignore
  ):
    with pytest.raises(ValueError, match='→ .*/a: a run cannot begin with its'):
      read(outer)


# --- Digests ----------------------------------------------------------------


def _same(file: pathlib.Path) -> None:
  os.utime(file, (1, 1))


def _flip(file: pathlib.Path) -> None:
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


def _grow(file: pathlib.Path) -> None:
  with file.open('ab') as opened:
    opened.write(b'\n')


@pytest.mark.parametrize(
  ('change', 'same'), [(_same, True), (_flip, False), (_grow, False)]
)
@pytest.mark.parametrize('path', ['f.bin', '', '*.bin'])
def test_a_digest_is_of_contents_alone(
  tmp_path: pathlib.Path,
  path: str,
  change: Callable[[pathlib.Path], None],
  same: bool,
) -> None:
  for folder in ('one', 'two'):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'f.bin').write_bytes(bytes(range(256)))
  change(tmp_path / 'two' / 'f.bin')
  one, two = (inputs.digest(tmp_path / name / path) for name in ('one', 'two'))
  assert (one == two) == same


def test_a_digest_is_of_linked_folders_too(tmp_path: pathlib.Path) -> None:
  for name in ('one', 'two'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'f.bin').write_bytes(b'a')
  (tmp_path / 'one' / 'more').symlink_to(tmp_path / 'two')
  before = inputs.digest(tmp_path / 'one')
  (tmp_path / 'two' / 'f.bin').write_bytes(b'b')
  assert inputs.digest(tmp_path / 'one') != before


def test_a_large_file_is_sampled_from_end_to_end(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(inputs, '_WHOLE_BYTES', 1000)
  monkeypatch.setattr(inputs, '_BLOCK_BYTES', 16)
  monkeypatch.setattr(inputs, '_BLOCKS', 8)
  file = tmp_path / 'large'
  found = set()
  for place in (None, 0, 15, 1999, 1984):
    data = bytearray(2000)
    if place is not None:
      data[place] = 1
    file.write_bytes(data)
    found.add(inputs.digest(file))
  file.write_bytes(bytes(2001))
  assert len(found | {inputs.digest(file)}) == 6


def test_a_digest_of_a_run_is_of_its_step_and_of_what_it_was_read_with(
  tmp_path: pathlib.Path,
) -> None:
  model, briefs = tmp_path / 'model', tmp_path / 'briefs.jsonl'
  model.mkdir()
  (model / 'config.json').write_text('{"model_type": "llama"}')
  briefs.write_text('{}')
  run = make_run(tmp_path / 'run', 1, model=str(model), briefs=str(briefs))
  evaluated = 'model', 'briefs'

  def digests() -> tuple[str, str]:
    return inputs.digest(run), inputs.digest(run, evaluated)

  first = digests()
  (tmp_path / 'run' / 'metrics.jsonl').write_text('{}\n')
  assert digests() == first
  briefs.write_text('{"a": 1}')
  second = digests()
  assert second[0] == first[0] and second[1] != first[1]
  (model / 'config.json').write_text('{"model_type": "qwen2"}')
  third = digests()
  assert third[0] != second[0]
  (tmp_path / 'run' / 'checkpoints' / '2').mkdir()
  assert digests()[0] != third[0]


def test_a_damaged_description_of_a_checkpoint_leaves_a_digest(
  tmp_path: pathlib.Path,
) -> None:
  """Its reader skips the checkpoint for an older one, and says so."""
  model = tmp_path / 'model'
  model.mkdir()
  (model / 'config.json').write_text('{"model_type": "llama"}')
  run = make_run(tmp_path / 'run', 1, model=str(model))
  file = tmp_path / 'run' / 'checkpoints' / '1' / '_CHECKPOINT_METADATA'
  found = set()
  for text in (
    '{"custom_metadata": {"checksums": {"params": 1}}}',
    '{"custom_metadata": []}',
    '{"custom_metad',
    '',
  ):
    file.write_text(text)
    found.add(inputs.digest(run))
  assert len(found) == 4


def test_every_function_of_a_sum_is_an_input(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  for name in ('one', 'two', 'three'):
    (tmp_path / f'{name}.py').write_text(f'# {name}')
  config = ConfigDict(
    {'writing': '0.5*one:f + judge - two:g', 'verifiers': ('rules', 'three:h')}
  )
  found = inputs.code(config)
  assert [*found] == ['writing one:f', 'writing two:g', 'verifiers three:h']
  assert len({each['digest'] for each in found.values()}) == 3
  assert [*inputs.code(ConfigDict({'writing': 'one:f'}))] == ['writing one:f']
  assert inputs.code(ConfigDict({})) == {}
