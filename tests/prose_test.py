"""Docstrings and comments: how they begin, and how many there are.

`python tests/prose_test.py` prints the numbers of every file.
"""

import ast
import functools
import io
import pathlib
import re
import sys
import tokenize
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / 'rlcw').rglob('*.py'))
OTHERS = sorted([*ROOT.glob('configs/*.py'), *ROOT.glob('scripts/**/*.py')])
# A docstring begins with a verb or a noun of the field, not with a question.
OPENINGS = {'what', 'whether', 'of', 'who', 'whose', 'where', 'how', 'why'}
MAX_WHAT = 1.0  # per 1,000 words of docstrings and comments
MIN_COMMENTS = 6.0  # whole-line comments per 100 lines of code


class Prose(NamedTuple):
  """Counts of one file or of several."""

  words: int
  what: int
  comments: int  # lines that hold nothing but a comment
  code: int  # lines that hold code

  def __add__(self, other: tuple[int, ...]) -> 'Prose':
    return Prose(*(a + b for a, b in zip(self, other, strict=True)))

  @property
  def what_per_thousand(self) -> float:
    return 1000 * self.what / max(self.words, 1)

  @property
  def comments_per_hundred(self) -> float:
    return 100 * self.comments / max(self.code, 1)


def docstrings(source: str) -> list[tuple[int, str]]:
  """Line and text of every docstring."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(
      node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    ):
      text = ast.get_docstring(node)
      if text:
        found.append((getattr(node, 'lineno', 1), text))
  return found


@functools.cache
def measure(source: str) -> Prose:
  """Counts of one file's docstrings, comments and lines of code."""
  texts = [text for _, text in docstrings(source)]
  comments, code, docs = 0, set(), set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
      docs |= set(range(node.lineno, (node.end_lineno or 0) + 1))
  skipped = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      texts.append(token.string.lstrip('# '))
      comments += token.line.strip().startswith('#')
    elif token.type not in skipped and token.string:
      code |= set(range(token.start[0], token.end[0] + 1))
  words = re.findall(r"[A-Za-z']+", '\n'.join(texts))
  what = sum(word.lower() == 'what' for word in words)
  return Prose(len(words), what, comments, len(code - docs))


def total(files: list[pathlib.Path]) -> Prose:
  """Counts of all files together."""
  return sum(
    (measure(file.read_text(encoding='utf-8')) for file in files),
    Prose(0, 0, 0, 0),
  )


def test_counts_of_a_known_file() -> None:
  source = (
    '"""What a file\n\nis for."""\n\n# Because.\nx = 1  # one\n\n\n'
    'def f():\n  """Returns what."""\n  return """a\nb"""\n'
  )
  assert measure(source) == Prose(words=9, what=2, comments=1, code=4)


@pytest.mark.parametrize('file', [*FILES, *OTHERS], ids=lambda f: f.name)
def test_docstrings_begin_with_a_verb_or_a_noun(file: pathlib.Path) -> None:
  found = [
    f'{file.relative_to(ROOT)}:{line}: {text.splitlines()[0]}'
    for line, text in docstrings(file.read_text(encoding='utf-8'))
    if text.split()[0].lower().strip(',:`') in OPENINGS
  ]
  assert found == []


@pytest.mark.parametrize('files', [FILES, OTHERS], ids=['rlcw', 'others'])
def test_prose_is_plain(files: list[pathlib.Path]) -> None:
  assert total(files).what_per_thousand <= MAX_WHAT


def test_surprising_lines_have_comments() -> None:
  assert total(FILES).comments_per_hundred >= MIN_COMMENTS


if __name__ == '__main__':
  chosen = [pathlib.Path(name).resolve() for name in sys.argv[1:]]
  chosen = chosen or [*FILES, *OTHERS]
  rows = [(str(file), measure(file.read_text('utf-8'))) for file in chosen]
  for name, row in [*rows, ('all', total(chosen))]:
    print(
      f'{row.what_per_thousand:6.1f} what/1,000 words '
      f'{row.comments_per_hundred:6.1f} comments/100 lines  {name}'
    )
