"""Shell scripts: what they use is set, as `set -u` would find only when run."""

import pathlib
import re
import subprocess

import pytest

SCRIPTS = pathlib.Path(__file__).resolve().parents[1] / 'scripts'
SOURCED = SCRIPTS / 'environment.sh'

_ASSIGNED = re.compile(
  r'(?:^|[\s;&|({])(?:local |export |declare -\w+ )*([a-z_]\w*)\+?='
  r'|\bfor ([a-z_]\w*) in\b|\b(?:mapfile -t|read -r|printf -v) ([a-z_]\w*)',
  re.MULTILINE,
)
_USED = re.compile(r'\$\{?[#!]?([a-z_]\w*)')
# In quotation marks or a here-document of another language nothing is expanded.
_LITERAL = re.compile(
  r"<<'(\w+)'.*?^\1$|(?:^|\s)#[^\n]*|'[^']*'", re.MULTILINE | re.DOTALL
)


def _names(pattern: re.Pattern[str], text: str) -> set[str]:
  found = pattern.findall(text)
  return {
    name for each in found for name in ([each], each)[type(each) is tuple]
  }


@pytest.mark.parametrize(
  'script', sorted(SCRIPTS.glob('*.sh')), ids=lambda path: path.name
)
def test_every_variable_of_a_script_is_set(script: pathlib.Path) -> None:
  text = script.read_text('utf-8')
  known = _names(_ASSIGNED, text)
  if 'environment.sh' in text:
    # what a function of it keeps to itself is not set
    sourced = re.sub(r'^ +local [^\n]*', '', SOURCED.read_text(), flags=re.M)
    known |= _names(_ASSIGNED, sourced)
  assert _names(_USED, _LITERAL.sub(' ', text)) <= known


def test_a_variable_that_is_not_set_is_found() -> None:
  text = 'a=1\nfor b in x; do c "$a" "${b}" \'$d\' "$e"; done  # $f\n'
  used = _names(_USED, _LITERAL.sub(' ', text))
  assert used == {'a', 'b', 'e'}
  assert used - _names(_ASSIGNED, text) == {'e'}


def _judges(folder: pathlib.Path, *others: str) -> tuple[int, str]:
  """Exit status and error output of judges.sh, which is to refuse `others`."""
  (folder / 'replies.jsonl').touch()
  command = [SCRIPTS / 'judges.sh', 'runs', 'replies.jsonl', *others]
  done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  return done.returncode, done.stderr


@pytest.mark.parametrize(
  'other', ['runs/x=y.md', '=y.md', 'y.md', 'examples=y']
)
def test_judges_refuses_what_names_no_principles(
  other: str, tmp_path: pathlib.Path
) -> None:
  status, told = _judges(tmp_path, other)
  assert status == 2
  assert told.startswith(f'{other}: expected NAME=FILE')


def test_judges_refuses_a_file_that_is_missing(tmp_path: pathlib.Path) -> None:
  status, told = _judges(tmp_path, 'game=missing.md')
  assert status == 1
  assert 'missing.md' in told


def test_judges_takes_a_file_whose_folder_has_an_equals_sign(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / 'a=b').mkdir()
  (tmp_path / 'a=b' / 'x').touch()
  # An argument that is read later is refused, so all before it was taken.
  _, told = _judges(tmp_path, 'game=a=b/x', 'last')
  assert told.startswith('last: expected NAME=FILE')


def _data_path(folder: pathlib.Path, path: str) -> tuple[int, str]:
  """Exit status and output of `data_path` of paths.sh."""
  command = ['bash', '-c', '. "$0"; data_path "$1"', SCRIPTS / 'paths.sh', path]
  done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
  return done.returncode, done.stdout.removesuffix('\n')


@pytest.mark.parametrize(
  'path', ['@x.jsonl', 'tfds:x/y?train', 'org/name', 'org/name@main?*.jsonl']
)
def test_a_name_of_data_stays(path: str, tmp_path: pathlib.Path) -> None:
  assert _data_path(tmp_path, path) == (0, path)


@pytest.mark.parametrize(
  'path', ['fold', 'fold/x.jsonl', 'fold/*.jsonl', '**/*.jsonl', 'fold/?.jsonl']
)
def test_a_path_of_data_is_one_from_everywhere(
  path: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / 'fold').mkdir()
  (tmp_path / 'fold' / 'x.jsonl').touch()
  assert _data_path(tmp_path, path) == (0, str(tmp_path / path))


@pytest.mark.parametrize('path', ['x.jsonl', 'org/x.jsonl', 'fold/y/*.csv'])
def test_data_that_is_missing_is_refused(
  path: str, tmp_path: pathlib.Path
) -> None:
  assert _data_path(tmp_path, path) == (1, '')


def test_judges_takes_principles_that_are_shipped(
  tmp_path: pathlib.Path,
) -> None:
  _, told = _judges(tmp_path, 'ours=@principles_writing_zh', 'last')
  assert told.startswith('last: expected NAME=FILE')


@pytest.mark.parametrize('bundled', [True, False])
def test_an_environment_without_pip_is_kept(
  tmp_path: pathlib.Path, bundled: bool
) -> None:
  """As one that uv has made; not every Python has pip bundled."""
  stub = """#!/bin/sh
  echo "$*" >> calls
  case "$*" in
    '-m pip --version') test -e has_pip ;;
    '-m ensurepip'*) test -e bundled && touch has_pip ;;
    '-m venv .venv') touch has_pip ;;
  esac
  """
  own, model = tmp_path / '.venv' / 'bin' / 'kept', tmp_path / 'models'
  for folder in (own.parent, model, tmp_path / 'scripts'):
    folder.mkdir(parents=True)
  for file in (tmp_path / 'base', own.with_name('python')):
    file.write_text(stub)
    file.chmod(0o755)
  (name,) = re.findall(r'^fetch_model (\S+\.gguf)', SOURCED.read_text(), re.M)
  for file in (own, model / name, tmp_path / 'pyproject.toml'):
    file.touch()
  if bundled:
    (tmp_path / 'bundled').touch()
  script = tmp_path / 'scripts' / SOURCED.name
  script.write_text(SOURCED.read_text())
  subprocess.run(
    ['bash', '-c', '. "$0"', script],
    env={'PATH': '/usr/bin:/bin', 'PYTHON': str(tmp_path / 'base')},
    check=True,
  )
  calls = (tmp_path / 'calls').read_text().splitlines()
  assert own.exists() and '-m pip install --quiet -e .' in calls
  assert [c for c in calls if 'ensurepip' in c or 'venv' in c] == [
    '-m ensurepip --default-pip',
    *([] if bundled else ['-m venv .venv']),
  ]
