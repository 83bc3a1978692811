"""What is kept on disk is of the same model and settings, or made anew."""

import os
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pipeline
import pytest

from rlcw.models import formats
from rlcw.rewards.briefs import Brief
from rlcw.runtime import files
from rlcw.tasks.compare import replies as compared
from rlcw.tasks.reward_model import run as reward_model


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
  """A folder that looks like a model's."""
  folder = tmp_path / 'model'
  folder.mkdir()
  (folder / 'config.json').write_text('{"model_type": "llama"}')
  (folder / 'model.safetensors').write_bytes(b'weights')
  return folder


def overwrite(file: pathlib.Path, content: bytes) -> None:
  """Other content at the same time of change, and as the folder's too."""
  before = [(path, path.stat()) for path in (file, file.parent)]
  file.write_bytes(content)
  for path, status in before:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_digest_is_of_names_and_contents(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  first = formats.digest(folder)
  assert formats.digest(str(folder)) == first
  os.utime(folder / 'model.safetensors', (0, 0))
  assert formats.digest(folder) == first
  overwrite(folder / 'model.safetensors', b'WEIGHTS')
  assert formats.digest(folder) != first
  overwrite(folder / 'model.safetensors', b'weights')
  (folder / 'model.safetensors').rename(folder / 'model-1.safetensors')
  assert formats.digest(folder) != first
  gguf = tmp_path / 'model.gguf'
  gguf.write_bytes(b'GGUF')
  digest = formats.digest(gguf)
  overwrite(gguf, b'GGUf')
  assert formats.digest(gguf) != digest
  with pytest.raises(FileNotFoundError, match='no model at'):
    formats.digest(tmp_path / 'absent.gguf')


def test_a_runs_digest_changes_with_its_checkpoint_and_its_base(
  folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  run = tmp_path / 'run'
  (run / 'checkpoints' / '3').mkdir(parents=True)
  files.write_json(run / 'config.json', {'model': str(folder)})
  (run / 'metrics.jsonl').write_text('{}\n')
  found = [formats.digest(run)]
  (run / 'metrics.jsonl').write_text('{"step": 1}\n')
  assert formats.digest(run) == found[0]
  (run / 'checkpoints' / '3' / 'params').write_bytes(b'1')
  found.append(formats.digest(run))
  overwrite(run / 'checkpoints' / '3' / 'params', b'2')
  found.append(formats.digest(run))
  (run / 'reward_model.safetensors').write_bytes(b'head')
  found.append(formats.digest(run))
  overwrite(folder / 'model.safetensors', b'WEIGHTS')
  found.append(formats.digest(run))
  assert len(set(found)) == 5


@pytest.fixture
def features(
  folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[float, int]]:
  """Returns a feature as cached, and how often any was computed."""
  calls = []

  def compute(*_: Any) -> np.ndarray:
    calls.append(None)
    weights = (folder / 'model.safetensors').read_bytes()
    return np.full((2, 3, 4), float(weights[0]))

  monkeypatch.setattr(reward_model, 'group_features', compute)
  groups = types.SimpleNamespace(
    prompt=np.zeros((2, 5)), token=np.zeros((2, 3, 6)), mask=np.ones((2, 3, 6))
  )
  model = types.SimpleNamespace(source=str(folder), config='float32')

  def ask() -> tuple[float, int]:
    found = reward_model.cached_features(
      groups, model, pipeline.shipped('reward_model'), tmp_path / '.features'
    )
    return found[1, 2, 3], len(calls)

  return ask


def test_features_of_weights_overwritten_in_place_are_computed_anew(
  folder: pathlib.Path, features: Callable[[], tuple[float, int]]
) -> None:
  assert features() == (ord('w'), 1)
  assert features() == (ord('w'), 1)
  overwrite(folder / 'model.safetensors', b'WEIGHTS')
  assert features() == (ord('W'), 2)
  overwrite(folder / 'model.safetensors', b'weights')
  assert features() == (ord('w'), 2)


@pytest.mark.parametrize('damage', ['empty', 'cut', 'flipped', 'other'])
def test_damaged_features_are_made_anew_with_one_line(
  damage: str,
  features: Callable[[], tuple[float, int]],
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  features()
  (kept,) = (tmp_path / '.features').iterdir()
  content = kept.read_bytes()
  half = len(content) // 2
  damages = {
    'empty': b'',
    'cut': content[:half],
    'flipped': content[:half]
    + bytes([content[half] ^ 1])
    + content[half + 1 :],
    'other': b'not an archive',
  }
  kept.write_bytes(damages[damage])
  capsys.readouterr()
  assert features() == (ord('w'), 2)
  said = capsys.readouterr()
  (line,) = (said.out + said.err).strip().splitlines()
  assert str(kept) in line and 'made anew' in line
  assert features() == (ord('w'), 2)


def store(file: pathlib.Path, key: list[str]) -> None:
  briefs = [Brief('x', 'Write.', [], [])] * 2
  compared.keep(file, key, briefs, [[], []], np.zeros((2, 3)))


def test_replies_are_reused_only_for_the_same_key(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  file = tmp_path / 'base.jsonl'
  assert not compared.is_answered(file, ['a'], 2)
  store(file, ['a'])
  assert compared.is_answered(file, ['a'], 2)
  assert not compared.is_answered(file, ['b'], 2)
  capsys.readouterr()
  for damaged, content in (
    (file, b'{"replies"'),
    (file, files.json_line({'replies': []})),
    (file.with_suffix('.npy'), b'x'),
    (file.with_suffix('.json'), b'{'),
  ):
    store(file, ['a'])
    damaged.write_bytes(content)
    assert not compared.is_answered(file, ['a'], 2)
    said = capsys.readouterr()
    assert len((said.out + said.err).strip().splitlines()) == 1
  store(file, ['a'])
  for name in ('write_jsonl', 'write_json'):  # what a kill prevents
    with pytest.MonkeyPatch.context() as patch:
      patch.delattr(compared, name)
      with pytest.raises(NameError):
        store(file, ['b'])
    assert not compared.is_answered(file, ['a'], 2)
  # as versions before the key wrote it
  assert not file.with_suffix('.json').exists()
  assert not compared.is_answered(file, ['a'], 2)


def test_the_key_of_replies_is_of_model_briefs_and_settings(
  folder: pathlib.Path,
) -> None:
  trained, config = pipeline.shipped('grpo'), pipeline.shipped('compare')
  trained.model, config.unseen = str(folder), str(folder)
  brief = Brief('a', 'Write.', ('length:words',), ({'at_most': 3},))

  def key(text: str = 'Write.') -> str:
    asked = [brief.__class__(**{**brief.__dict__, 'prompt': text})]
    return str(compared.identity(asked, trained, config))

  found = [key()]
  assert key() == found[0]
  # how long it waits for a server changes no reply
  config.judge.endpoint.timeout, config.judge.endpoint.retries = 9.0, 1
  assert key() == found[0]
  found.append(key('Sing.'))
  for settings, name, value in (
    (trained, 'temperature', 0.5),
    (trained, 'max_new_tokens', 9),
    (config, 'seed', 7),
    (config, 'replies_per_brief', 9),
  ):
    settings[name] = value
    found.append(key())
  config.judge.model = 'other'
  found.append(key())
  overwrite(folder / 'model.safetensors', b'WEIGHTS')
  found.append(key())
  # what scores the replies may be overwritten in place
  for settings, name in (
    (trained, 'reward_model'),
    (trained.judge, 'model'),
    (config.judge, 'principles'),
  ):
    file = folder.parent / f'{name}.md'
    file.write_text('Be kind.')
    settings[name] = str(file)
    trained.writing = 'judge' if settings is trained.judge else 'reward_model'
    found.append(key())
    file.write_text('Be cruel.')
    found.append(key())
  assert len(set(found)) == len(found)
