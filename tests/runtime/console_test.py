"""What a run prints is whole and literal, with a terminal and without."""

import errno
import io
import os
import sys

import pytest

from rlcw.runtime import console, processes

MARKUP = '[bold]x[/] [red]:smile: {y} \\[z'


class Terminal(io.StringIO):
  def isatty(self) -> bool:
    return True


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
  """A narrow terminal, in place of stdout and stderr."""
  for name in ('NO_COLOR', 'FORCE_COLOR', 'TTY_COMPATIBLE'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('TERM', 'xterm-256color')
  monkeypatch.setenv('COLUMNS', '20')
  screen = Terminal()
  monkeypatch.setattr(sys, 'stdout', screen)
  monkeypatch.setattr(sys, 'stderr', screen)
  return screen


def show_table() -> None:
  rows = [[MARKUP, *(f'{n}.{n:04}' for n in range(30))], ['五言' * 60, '1.5']]
  columns = ['', *(f'column {n}' for n in range(30))]
  console.table('a [bold]title', columns, rows)


def test_a_line_has_all_numbers_and_a_dash_for_missing_ones() -> None:
  row = {'a': 0.12345, 'b': None, 'c': float('nan'), 'd': 12345.6, 'n': 7}
  template = 'a {a:.3f}, b {b:.1%}, c {c:.2e}, d {d:,.0f}, {none:.1f}, {n:d}'
  assert console.line(template, row) == 'a 0.123, b –, c –, d 12,346, –, 7'


@pytest.mark.parametrize(
  ('ends', 'text'),
  [(None, ''), ([0.1, 0.25], '10% to 25%'), ([float('nan'), 1], '– to 100%')],
)
def test_an_interval_is_two_numbers(ends: list[float], text: str) -> None:
  assert console.interval(ends, '.0%') == text


def test_a_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
  console.log(f'{MARKUP} {"long " * 99}')
  assert capsys.readouterr().out == f'{MARKUP} {"long " * 99}\n'


def test_a_text_cannot_steer_the_terminal(
  capsys: pytest.CaptureFixture[str],
) -> None:
  console.log('a\x1b]0;owned\x07 b')
  assert capsys.readouterr().out == 'a\\x1b]0;owned\\x07 b\n'


def test_a_character_that_the_terminal_lacks_is_escaped(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  screen = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  monkeypatch.setattr(sys, 'stdout', screen)
  console.log('a 五\ud83d')
  console.table('五', ('', 'x'), [('–', '1')])
  screen.flush()
  text = screen.buffer.getvalue().decode('ascii')  # type: ignore
  assert text.startswith('a \\u4e94\\ud83d\n')
  assert '\\u2013' in text


def test_a_table_without_a_terminal_is_whole_and_plain(
  capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.delenv('FORCE_COLOR', raising=False)
  monkeypatch.setenv('COLUMNS', '20')
  show_table()
  title, columns, _, first, second = capsys.readouterr().out.splitlines()
  assert title == 'a [bold]title'
  assert columns.split() == [w for n in range(30) for w in ('column', str(n))]
  assert first.split()[-30:] == [f'{n}.{n:04}' for n in range(30)]
  assert first.strip().startswith(MARKUP)
  assert second.split() == ['五言' * 60, '1.5']


def test_a_table_in_a_narrow_terminal_is_whole(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  terminal = open_terminal(monkeypatch)
  show_table()
  text = terminal.getvalue()
  assert '\x1b[1m' in text and MARKUP in text
  lines = text.splitlines()
  assert len(lines) == 5
  assert lines[3].split()[-30:] == [f'{n}.{n:04}' for n in range(30)]


def test_a_cell_cannot_steer_the_terminal(
  capsys: pytest.CaptureFixture[str],
) -> None:
  console.table('', ('', 'a\x1b]0;x\x07'), [('b\x1b[2J\r\n', '1')])
  text = capsys.readouterr().out
  assert not {*'\x1b\x07\r'} & {*text}
  assert len(text.splitlines()) == 4


def test_progress_without_a_terminal_is_lines_with_counts(
  capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(console, '_PAUSE', 0.0)
  list(console.progress('judge', 1000, 1005, 'reply', 2, lambda: '3 [good]'))
  said = capsys.readouterr()
  assert said.out.splitlines() == [
    f'judge: reply {n} of 1,005, 00:00 elapsed, 00:00 left, 3 [good]'
    for n in ('1,002', '1,004', '1,005')
  ]
  assert said.err == ''


def test_lines_of_progress_are_seconds_apart(
  capsys: pytest.CaptureFixture[str],
) -> None:
  list(console.progress('judge', 0, 500, 'reply'))
  assert capsys.readouterr() == ('', '')


def test_progress_in_a_terminal_is_a_bar_below_the_lines(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  terminal = open_terminal(monkeypatch)
  monkeypatch.setattr(console, '_PAUSE', 0.0)
  for _ in console.progress('judge', 0, 3, 'reply'):
    console.log('a line')
  text = terminal.getvalue()
  assert text.count('a line\n') == 3
  assert '3/3' in text and 'elapsed' not in text


def test_only_process_0_prints(
  capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(processes, 'is_primary_process', lambda: False)
  monkeypatch.setattr(console, '_PAUSE', 0.0)
  list(console.progress('judge', 0, 3, 'reply'))
  show_table()
  console.log('x')
  assert capsys.readouterr() == ('', '')


def test_a_terminal_that_was_closed_ends_no_run(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def write(*_: object) -> None:
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(console.tqdm, 'write', write)
  number = errno.EIO
  console.log('a')
  number = errno.ENOSPC
  with pytest.raises(OSError, match='No space'):
    console.log('a')
