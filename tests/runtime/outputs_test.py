"""Lines of answers in any order end in the order of the input."""

import json
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcw.runtime import files
from rlcw.runtime.outputs import Output

RECORDS = [{'key': n} for n in range(5)]


def begin(
  path: pathlib.Path, records: list[dict[str, Any]] | None = None
) -> Output:
  return Output(path, 'response', 'in.jsonl', records or RECORDS)


@given(st.permutations(range(5)), st.integers(0, 5), st.booleans())
def test_lines_end_in_the_order_of_the_input(
  tmp_path_factory: pytest.TempPathFactory,
  order: list[int],
  kept: int,
  killed_at_the_end: bool,
) -> None:
  path = tmp_path_factory.mktemp('x') / 'new' / 'out.jsonl'
  lines = [record | {'response': f'r{record["key"]}'} for record in RECORDS]
  first = begin(path)
  assert not first.done
  for row in order[:kept]:
    first.append(row, lines[row])
  second = begin(path)
  assert second.done == {*order[:kept]}
  for row in order[kept:]:
    second.append(row, lines[row])
  if killed_at_the_end:
    second = begin(path)
    assert second.done == {*order}
  second.sort()
  assert files.read_jsonl(path) == lines
  # A run that ended finds all of its lines, and leaves them alone.
  third, content = begin(path), path.read_bytes()
  assert third.done == {*range(5)}
  third.sort()
  assert path.read_bytes() == content


def test_lines_without_a_row_are_in_order(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'out.jsonl'  # of an earlier version, or sorted
  path.write_text(''.join(f'{{"response": {row}}}\n' for row in range(3)))
  output = begin(path)
  assert output.done == {0, 1, 2}
  output.append(4, {'response': 4})
  output.append(3, {'response': 3})
  output.sort()
  assert files.read_jsonl(path) == [{'response': row} for row in range(5)]


def test_a_line_that_is_deleted_is_made_again(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'out.jsonl'
  output = begin(path)
  for row in range(3):
    output.append(row, {'response': row})
  _, *rest = path.read_bytes().splitlines(keepends=True)  # as if damaged
  path.write_bytes(b''.join(rest))
  output = begin(path)
  assert output.done == {1, 2}
  for row in (4, 0, 3):
    output.append(row, {'response': row})
  output.sort()
  assert files.read_jsonl(path) == [{'response': row} for row in range(5)]


def test_lines_of_another_process_are_no_output(tmp_path: pathlib.Path) -> None:
  output, other = (begin(tmp_path / 'out.jsonl') for _ in range(2))
  for row in range(5):
    output.append(row, {'response': row})
    other.append(row, {'response': row})
  with pytest.raises(ValueError, match="with the wrong 'row'"):
    output.sort()


def test_a_record_may_have_a_row_of_its_own(tmp_path: pathlib.Path) -> None:
  records = [{'row': 7, 'row2': 'x'}, {'row': None}]
  output = begin(tmp_path / 'out.jsonl', records)
  for row in (1, 0):
    output.append(row, records[row] | {'response': 'r'})
  output = begin(tmp_path / 'out.jsonl', records)
  assert output.done == {0, 1}
  output.sort()
  assert files.read_jsonl(tmp_path / 'out.jsonl') == [
    record | {'response': 'r'} for record in records
  ]


@pytest.mark.parametrize(
  'lines, message',
  [
    ([{'response': 1}] * 6, 'has 6 lines, but in.jsonl only 5'),
    ([{'response': 1, 'row': 5}], "with the wrong 'row'; expected each of 0"),
    ([{'response': 1, 'row': -1}], "with the wrong 'row'"),
    ([{'response': 1, 'row': True}], "with the wrong 'row'"),
    ([{'response': 1, 'row': [1]}], "with the wrong 'row'"),
    ([{'response': 1, 'row': 1}, {'response': 2}], "with the wrong 'row'"),
    ([{'verdict': 1, 'row': 1}], "has lines without 'response'"),
  ],
)
def test_the_output_of_something_else_is_refused(
  lines: list[dict[str, Any]], message: str, tmp_path: pathlib.Path
) -> None:
  path = tmp_path / 'out.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  content = path.read_bytes()
  with pytest.raises(ValueError, match=message):
    begin(path)
  assert path.read_bytes() == content
