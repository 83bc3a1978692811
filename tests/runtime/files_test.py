"""The folder of a run: any local one, by any name that can be written."""

import pathlib

import pytest

from rlcw.runtime import files


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
