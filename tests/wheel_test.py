"""The wheel is complete: it runs without the checkout, in any folder."""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*command: object, **options: object) -> str:
  done = subprocess.run(
    [str(word) for word in command],
    check=False,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    **options,  # type: ignore[arg-type]
  )
  assert done.returncode == 0, done.stdout
  return done.stdout


def files(folder: pathlib.Path) -> set[str]:
  return {
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.is_file() and '__pycache__' not in path.parts
  }


def test_the_wheel_runs_in_any_folder(tmp_path: pathlib.Path) -> None:
  source, target, here = (tmp_path / name for name in ('a', 'b', 'c'))
  here.mkdir()
  # A copy, as a build leaves files beside the source.
  for name in ('rlcw', 'configs'):
    ignore = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / name, source / name, ignore=ignore)
  for name in ('pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source)
  pip = sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q'
  quick = '--no-deps', '--no-build-isolation', '--no-index', '--no-compile'
  run(*pip, 'install', *quick, '--target', target, source)
  expected = files(source / 'rlcw')
  expected |= {f'configs/{name}' for name in files(source / 'configs')}
  assert files(target / 'rlcw') == expected
  # Python finds the dependencies where they are, and rlcw in the target alone.
  shutil.rmtree(source)
  # It reads data of the package.
  output = run(
    sys.executable,
    target / 'bin' / 'rlcw',
    '--config=briefs',
    '--workdir=briefs',
    '--config.count=3',
    cwd=here,
    env=os.environ | {'PYTHONPATH': str(target), 'XLA_FLAGS': ''},
  )
  assert 'Traceback' not in output
  lines = (here / 'briefs' / 'briefs.jsonl').read_text().splitlines()
  assert len(lines) == 3
