"""Files of runs: written whole or not at all, and named where damaged."""

import os
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pipeline
import pytest
import tokenizers
import transformers

from rlcw.data import datasets
from rlcw.models import weights
from rlcw.runtime import files, metrics, paths, settings
from rlcw.runtime.inputs import reads
from rlcw.runtime.loggers import Loggers
from rlcw.sampling import secret
from rlcw.sampling.usage import Ledger
from rlcw.tasks import export
from rlcw.tasks.adversary.strategy import State
from rlcw.tasks.compare.benchmarks import benchmark
from rlcw.tasks.compare.logs import read_logs
from rlcw.tasks.compare.page import CURVES

QUIET = settings.ConfigDict({'loggers': ''})
SPOILED = [
  '{"step": 1',
  '\0\0\0',
  '[1]',
  'null',
  '[' * 100_000,
  '{"a": "\xff"}',
]


def lines(path: pathlib.Path, text: str) -> pathlib.Path:
  content = f'{{"step": 0, "x": 1}}\n{text}\n{{"step": 2, "x": 1}}\n'
  path.write_text(content, 'latin-1')
  return path


def trained(folder: str) -> pathlib.Path:
  """Adds whole logs of a run."""
  run = pathlib.Path(folder)
  files.append_jsonl(run / 'metrics.jsonl', dict.fromkeys(['step', *CURVES], 0))
  files.append_jsonl(run / 'rollouts.jsonl', {'replies': []})
  return run


@pytest.mark.parametrize('text', SPOILED)
@pytest.mark.parametrize(
  'read',
  [
    lambda path: files.read_jsonl(path),
    lambda path: files.drop_from_step(path, 3),
    lambda path: files.drop_last(path, lambda _: True),
    lambda path: files.count_whole_lines(path, 'x'),
    lambda path: datasets.read_jsonl(path),
  ],
)
def test_a_spoiled_line_is_named_and_left(
  tmp_path: pathlib.Path, text: str, read: Callable[[pathlib.Path], Any]
) -> None:
  path = lines(tmp_path / 'a.jsonl', text)
  before = path.read_bytes()
  with pytest.raises(ValueError, match=r'a\.jsonl:2: '):
    read(path)
  assert path.read_bytes() == before


@pytest.mark.parametrize('name', [f'{n}.jsonl' for n in metrics.STEP_LOGS])
@pytest.mark.parametrize('text', [*SPOILED, '{}', '{"step": null}'])
def test_a_resumed_run_names_a_spoiled_line_of_its_logs(
  tmp_path: pathlib.Path, name: str, text: str
) -> None:
  lines(tmp_path / name, text)
  with pytest.raises(ValueError, match=rf'{name}:2: '):
    metrics.Writer(tmp_path, 1)


@pytest.mark.parametrize('text', SPOILED)
@pytest.mark.parametrize(
  ('name', 'read'),
  [
    ('config.json', lambda folder: settings.read(folder)),
    ('config.json', lambda folder: reads(settings.ConfigDict({'run': folder}))),
    ('usage.json', lambda folder: Ledger(pathlib.Path(folder), {})),
    (
      'state.json',
      lambda folder: State.read(pathlib.Path(folder, 'state.json')),
    ),
    ('metrics.jsonl', lambda folder: read_logs(pathlib.Path(folder))),
    ('summary.json', lambda folder: read_logs(trained(folder))),
    ('loggers.json', lambda folder: Loggers(pathlib.Path(folder), 0, QUIET)),
    ('summary.json', lambda folder: benchmark(folder)),
  ],
)
def test_a_spoiled_file_of_a_run_is_named(
  tmp_path: pathlib.Path, name: str, read: Callable[[str], Any], text: str
) -> None:
  (tmp_path / name).write_text(text, 'latin-1')
  with pytest.raises(ValueError, match=name):
    read(str(tmp_path))


def test_a_link_stays_one_and_a_pipe_is_no_file(
  tmp_path: pathlib.Path,
) -> None:
  target, link = tmp_path / 'target', tmp_path / 'link'
  target.write_text('old')
  link.symlink_to(target)
  files.replace(link, 'new')
  assert link.is_symlink() and target.read_text() == 'new'
  assert not [*tmp_path.glob('*.partial')]
  pipe = tmp_path / 'pipe'
  os.mkfifo(pipe)
  with pytest.raises(OSError, match='pipe is no file'):
    files.replace(pipe, 'new')


def test_home_is_a_folder_and_not_a_name(
  monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
  monkeypatch.setenv('HOME', str(tmp_path))
  assert files.local_folder('~/runs/a') == tmp_path / 'runs/a'
  for name in ('a~/b', '~no_such_user/b'):
    assert files.local_folder(name) == pathlib.Path(name)
  (tmp_path / 'briefs.jsonl').write_text('')
  assert paths.matches('~/briefs.jsonl') == [tmp_path / 'briefs.jsonl']
  assert paths.matches('~/*.jsonl') == [tmp_path / 'briefs.jsonl']


def test_two_processes_may_write_one_file(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """As two runs that keep the same features beside their workdirs."""
  path = tmp_path / 'a.npz'
  with files.atomic(path) as ours:
    ours.write_text('ours')
    with monkeypatch.context() as other:
      other.setattr(os, 'getpid', lambda: 1)
      files.replace(path, 'theirs')
    assert path.read_text() == 'theirs'
  assert path.read_text() == 'ours' and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize('error', [OSError(28, 'full'), KeyboardInterrupt()])
def test_a_file_is_replaced_whole_or_not_at_all(
  tmp_path: pathlib.Path, error: BaseException
) -> None:
  path = tmp_path / 'a.json'
  files.replace(path, 'old')
  with pytest.raises(type(error)), files.atomic(path) as partial:
    partial.write_text('ne')
    raise error
  assert path.read_text() == 'old' and [*tmp_path.iterdir()] == [path]
  files.replace(path, b'new')
  assert path.read_text() == 'new' and [*tmp_path.iterdir()] == [path]


def test_a_full_disk_is_named(tmp_path: pathlib.Path) -> None:
  tokenizer = types.SimpleNamespace(
    tokenizer=transformers.PreTrainedTokenizerFast(
      tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE())
    ),
    system='',
  )
  tensors = {'a': np.zeros(3, np.float32)}
  for write in (
    lambda: files.append_jsonl(tmp_path / 'a.jsonl', {}),
    lambda: files.write_json(tmp_path / 'a.json', {}),
    lambda: secret.load(tmp_path / 'a.sqlite', None),
    lambda: weights.save_tensors(tensors, tmp_path / 'a.safetensors', {}),
    lambda: export.save_tokenizer(tokenizer, tmp_path),
  ):
    with pytest.raises(OSError, match=str(tmp_path)), pipeline.full_disk():
      write()


@pytest.mark.parametrize(
  'name',
  ['runs/a b', '-x', 'cost_$5_$10', '诗', 'a:b', 'two\nlines', '/tmp/x/'],
)
def test_any_local_folder_is_a_workdir(name: str) -> None:
  assert files.local_folder(name) == pathlib.Path(name)


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('', 'expected a folder'),
    (' ', 'expected a folder'),
    ('a\0b', 'expected a folder'),
    ('gs://bucket/run', 'expected a local folder'),
    ('runs/gs:', 'expected a local folder'),
    ('s3://bucket', 'expected a local folder'),
    ('half\udc80', 'whose name is UTF-8'),
  ],
)
def test_another_workdir_is_refused(name: str, words: str) -> None:
  with pytest.raises(ValueError, match=words) as error:
    files.local_folder(name)
  str(error.value).encode()
