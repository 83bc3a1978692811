"""Where models are found: paths, the Hub's cache, the Hub itself."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from rlcw.models import hub
from rlcw.runtime import configs

LEGAL = (
  'expected a GGUF file, a folder with config.json and safetensors, or a Hub'
)


class Hub:
  """Stands in for the Hub and its cache; keeps what it was asked."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self.cached = False
    self.error: Exception | None = None
    self.asked: list[dict[str, Any]] = []
    self.probed: list[dict[str, Any]] = []

  def repo_info(self, repository: str, **settings: Any) -> None:
    self.probed.append({'repository': repository, **settings})
    if self.error is not None:
      raise self.error

  def snapshot_download(self, repository: str, **settings: Any) -> str:
    self.asked.append({'repository': repository, **settings})
    if settings['local_files_only'] and not self.cached:
      raise errors.LocalEntryNotFoundError('not in the cache')
    return str(self.folder)


@pytest.fixture
def fake(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
  fake = Hub(tmp_path / 'snapshot')
  fake.folder.mkdir()
  _write(fake.folder, 'config.json', 'model.safetensors')
  monkeypatch.setattr(
    huggingface_hub, 'snapshot_download', fake.snapshot_download
  )
  monkeypatch.setattr(huggingface_hub, 'HfApi', lambda: fake)
  return fake


def _write(folder: pathlib.Path, *names: str) -> None:
  for name in names:
    (folder / name).write_text('{}')


def _http(kind: Callable[..., Exception]) -> Exception:
  """An error of the Hub, without the answer that it came from."""
  return kind.__new__(kind)  # type: ignore[arg-type]


def test_a_path_that_exists_is_returned_as_it_is(
  tmp_path: pathlib.Path, fake: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
  _write(tmp_path, 'model.gguf')
  assert hub.fetch(tmp_path) == tmp_path
  assert hub.fetch(str(tmp_path / 'model.gguf')) == tmp_path / 'model.gguf'
  (tmp_path / 'org' / 'name').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  assert hub.fetch('org/name') == pathlib.Path('org/name')
  assert fake.asked == fake.probed == []


@pytest.mark.parametrize(
  'model',
  [
    '/no/such/path',
    'foo.gguf',
    'models/foo.gguf',
    'models/foo.safetensors',
    'name',
    './org/name',
    '../name',
    'org/name/more',
    'org/name@',
    'org/a name',
    'org/name?*.safetensors',
  ],
)
def test_what_is_no_path_and_no_id_is_an_error(model: str, fake: Hub) -> None:
  with pytest.raises(FileNotFoundError) as caught:
    hub.fetch(model)
  assert str(caught.value) == (
    f'no model at {model}: expected a GGUF file, a folder with config.json and '
    'safetensors, or a Hub id (org/name)'
  )
  assert fake.asked == fake.probed == []


def test_the_model_of_the_shipped_configs_names_what_downloads_it(
  tmp_path: pathlib.Path, fake: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  with pytest.raises(FileNotFoundError, match=r'; .*quickstart\.sh.* this one'):
    hub.fetch(str(configs.load('grpo').model))
  assert fake.asked == fake.probed == []


@pytest.mark.parametrize(
  ('model', 'revision'),
  [
    ('org/name-1.5', None),
    ('org/name-1.5@main', 'main'),
    ('org/name-1.5@refs/pr/2', 'refs/pr/2'),
    (pathlib.Path('org/name-1.5'), None),
  ],
)
def test_an_id_is_downloaded(model: Any, revision: Any, fake: Hub) -> None:
  assert hub.fetch(model) == fake.folder
  [probed] = fake.probed
  assert probed['timeout'] == 10.0
  for ask in [probed, *fake.asked]:
    assert (ask['repository'], ask['revision']) == ('org/name-1.5', revision)
    assert ask['repo_type'] == 'model'
  assert [ask['local_files_only'] for ask in fake.asked] == [True, False]


def test_only_what_is_needed_is_downloaded_and_no_pickle(fake: Hub) -> None:
  hub.fetch('org/name')
  files = """config.json tokenizer.json tokenizer_config.json tokenizer.model
    generation_config.json model.safetensors model-00001-of-00002.safetensors
    model.safetensors.index.json chat_template.jinja merges.txt vocab.txt
    pytorch_model.bin model.pt consolidated.pth weights.pkl tf_model.h5
    README.md onnx/config.json original/model.safetensors
    consolidated.safetensors"""
  wanted = huggingface_hub.utils.filter_repo_objects(
    files.split(),
    allow_patterns=fake.asked[-1]['allow_patterns'],
    ignore_patterns=fake.asked[-1]['ignore_patterns'],
  )
  assert list(wanted) == files.split()[:11]


def test_what_is_in_the_cache_asks_nobody(fake: Hub) -> None:
  fake.cached = True
  assert hub.fetch('org/name') == fake.folder
  assert [ask['local_files_only'] for ask in fake.asked] == [True]
  assert fake.probed == []


@pytest.mark.parametrize('lost', ['config.json', 'b.safetensors'])
def test_a_cache_that_lacks_a_file_is_completed(lost: str, fake: Hub) -> None:
  fake.cached = True
  (fake.folder / 'model.safetensors').unlink()
  index = {'weight_map': {'x': 'a.safetensors', 'y': 'b.safetensors'}}
  _write(fake.folder, 'a.safetensors', 'b.safetensors')
  (fake.folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  assert hub.fetch('org/name') == fake.folder
  assert fake.probed == []
  (fake.folder / lost).unlink()
  with pytest.raises(FileNotFoundError):  # the stand-in cannot complete it
    hub.fetch('org/name')
  assert len(fake.probed) == 1
  assert fake.asked[-1]['local_files_only'] is False


def test_a_repository_without_safetensors_is_an_error(fake: Hub) -> None:
  (fake.folder / 'model.safetensors').unlink()
  with pytest.raises(
    FileNotFoundError,
    match=f'^no model at org/name: .*no config.json with safetensors; {LEGAL}',
  ):
    hub.fetch('org/name')


@pytest.mark.parametrize(
  ('error', 'reason'),
  [
    (_http(errors.RepositoryNotFoundError), 'no such repository, or a private'),
    (_http(errors.GatedRepoError), 'accept terms on its page'),
    (_http(errors.RevisionNotFoundError), 'no such revision'),
    (errors.OfflineModeIsEnabled(), 'HF_HUB_OFFLINE forbids'),
    (RuntimeError('line one\nline two'), 'RuntimeError: line one;'),
    (TimeoutError(), 'TimeoutError: no reason given;'),
  ],
)
def test_why_the_hub_gives_nothing_is_said(
  error: Exception, reason: str, fake: Hub
) -> None:
  fake.error = error
  with pytest.raises(
    FileNotFoundError, match=f'^no model at org/name@v1: .*{reason}.*{LEGAL}'
  ) as caught:
    hub.fetch('org/name@v1')
  assert '\n' not in str(caught.value)
  assert caught.value.__cause__ is error


def test_a_network_that_refuses_is_a_clear_error(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  # Nothing listens on port 9, and the names below are read at each call.
  monkeypatch.setattr(constants, 'ENDPOINT', 'http://127.0.0.1:9')
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  with pytest.raises(
    FileNotFoundError, match=f'^no model at org/name: .*Connect.*{LEGAL}'
  ):
    hub.fetch('org/name')
