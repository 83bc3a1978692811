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


@pytest.mark.parametrize(
  'other',
  ['runs/x=y.md', '=y.md', 'y.md', 'examples=y.md', 'game=no such file'],
)
def test_judges_refuses_what_names_no_principles(
  other: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / 'replies.jsonl').touch()
  command = [SCRIPTS / 'judges.sh', 'runs', 'replies.jsonl', other]
  done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
  assert done.returncode != 0
  assert other.partition('=')[2] in done.stderr


def test_judges_takes_a_file_whose_folder_has_an_equals_sign(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / 'a=b').mkdir()
  for name in ('replies.jsonl', 'a=b/x'):
    (tmp_path / name).touch()
  command = [SCRIPTS / 'judges.sh', 'runs', 'replies.jsonl']
  # An argument that is read later is refused, so all before it was taken.
  done = subprocess.run(
    [*command, 'game=a=b/x', 'last'],
    cwd=tmp_path,
    capture_output=True,
    text=True,
  )
  assert done.stderr.startswith('last: expected NAME=FILE')
