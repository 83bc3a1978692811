"""Everything that a run prints: log lines, progress and tables.

Only process 0 prints.  Texts and cells are printed as they are: none of their
characters is markup.  Without a terminal there are no bars and no escape codes,
and a table is as wide as its content.
"""

import contextlib
import errno
import io
import math
import string
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich import box, console
from rich import table as rich_table
from tqdm import tqdm

from rlcw.runtime import processes

# Seconds between two lines of progress where there is no terminal for a bar.
_PAUSE = 10.0
_WIDEST = 10_000  # columns that a table may ask for
MISSING = '–'


_SHOWN = '\n\u200c\u200d'  # a line break, and joiners


def printable(text: object) -> str:
  """Returns a text whose control characters, but line breaks, are escaped.

  Spaces of all widths stay, and what joins letters and emoji.
  """
  return ''.join(
    c
    if c.isprintable() or c in _SHOWN or unicodedata.category(c) == 'Zs'
    else ascii(c)[1:-1]
    for c in str(text)
  )


def log(text: str) -> None:
  """Prints a line above the progress bar (on process 0).

  Texts of data and servers may be in it: control characters are escaped.
  """
  _write(printable(text))


def _write(text: str) -> None:
  if processes.is_primary_process():
    # A character that the terminal's encoding lacks must not end the run.
    encoding = getattr(sys.stdout, 'encoding', None) or 'utf-8'
    text = text.encode(encoding, 'backslashreplace').decode(encoding)
    try:
      tqdm.write(text, sys.stdout)
    except OSError as error:
      if error.errno != errno.EIO:  # of a terminal that was closed
        raise


# Notices of this run so far, for its summary.
_notices: list[str] = []


def notice(text: str) -> None:
  """Logs, once per run, something that was left out, cut or replaced.

  The summary of the run lists all notices.
  """
  if text not in _notices:
    _notices.append(text)
    log(f'notice: {text}')


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
  """Keeps notices back, such as of a file that is only looked up."""
  before, _notices[:] = _notices[:], []
  with contextlib.redirect_stdout(io.StringIO()):
    try:
      yield
    finally:
      _notices[:] = before


def take_notices() -> list[str]:
  """Returns the notices since the last call, and forgets them."""
  taken = _notices.copy()
  _notices.clear()
  return taken


def progress(
  name: str,
  start: int,
  stop: int,
  unit: str,
  stride: int = 1,
  note: Callable[[], str] = str,
  lines: bool = True,
) -> Iterator[int]:
  """Yields `start` to `stop` by `stride` under a bar with rate, ETA and note.

  Where stderr is no terminal, there is a line every few seconds instead.

  Args:
    name: label of the bar.
    start: first value; counts as done already.
    stop: end of the range, exclusive.
    unit: noun for one item.
    stride: items per value.
    note: returns a text to show behind the bar.
    lines: false if the caller logs lines itself, so that a bar is enough.
  """
  has_bar = processes.is_primary_process() and sys.stderr.isatty()
  begun = shown = time.perf_counter()
  with tqdm(
    total=stop,
    initial=start,
    desc=name,
    unit=unit,
    dynamic_ncols=True,
    leave=None,  # a nested bar is removed when it is complete
    disable=not has_bar,
  ) as bar:
    for step in range(start, stop, stride):
      yield step
      bar.set_postfix_str(note(), refresh=False)
      bar.update(min(stride, stop - step))
      done, now = min(step + stride, stop), time.perf_counter()
      if lines and not has_bar and now - shown >= _PAUSE:
        shown = now
        left = (now - begun) / (done - start) * (stop - done)
        parts = [
          f'{name}: {unit} {done:,} of {stop:,}',
          f'{tqdm.format_interval(now - begun)} elapsed',
          f'{tqdm.format_interval(left)} left',
          note(),
        ]
        log(', '.join(part for part in parts if part))


class _Line(string.Formatter):
  """Format strings whose fields may be missing, None or not finite."""

  def get_value(self, key: Any, args: Any, kwargs: Any) -> Any:
    del args
    return kwargs.get(key)

  def format_field(self, value: Any, format_spec: str) -> str:
    return number(value, format_spec)


def number(value: float | None, style: str) -> str:
  """Formats a number; None, NaN and infinity become a dash."""
  if value is None or not math.isfinite(value):
    return MISSING
  return format(value, style)


def line(template: str, row: Mapping[str, Any]) -> str:
  """Fills a row of metrics into a line.

  Args:
    template: of `str.format`, with a format for every field, which names a
      metric; a metric without a finite value becomes a dash.
    row: numbers by name.
  """
  return _Line().vformat(template, (), row)


def table(
  title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
  """Prints a table: the first column is a label, the others are numbers."""
  grid = rich_table.Table(box=box.SIMPLE_HEAD)
  for index, column in enumerate(columns):
    grid.add_column(plain(column), justify='right' if index else 'left')
  for row in rows:
    grid.add_row(*map(plain, row))
  # Not by rich, which breaks a title that is longer than its table.
  log(plain(title))
  show(grid)


def plain(cell: str) -> str:
  """Replaces characters of a line that a terminal would obey, not show."""
  return ''.join(c if c.isprintable() else '\ufffd' for c in cell)


def interval(ends: Sequence[float] | None, style: str) -> str:
  """Formats an interval as `low to high`; blank if there is none."""
  if ends is None:
    return ''
  return ' to '.join(number(end, style) for end in ends)


def show(*grids: rich_table.Table) -> None:
  """Prints tables of `rich` whole, even where the terminal is narrower."""
  if not processes.is_primary_process():
    return
  out = console.Console(
    file=sys.stdout, markup=False, emoji=False, highlight=False, width=_WIDEST
  )
  for grid in grids:
    out.width = _WIDEST
    out.width = out.measure(grid).maximum
    with out.capture() as printed:
      out.print(grid)
    lines = [line.rstrip() for line in printed.get().splitlines()]
    # Their cells are plain (`table`); the escapes are those of headings.
    _write('\n'.join(line for line in lines if line))
