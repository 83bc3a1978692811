"""Names: any text becomes a label, a label in a plot, markup or a file."""

import unicodedata
import warnings

import matplotlib
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib import figure
from rich import cells

from rlcw.evaluation import names, page, plots

# any text at all, halves of surrogate pairs included, and likely trouble
ANY = st.one_of(
  st.text(st.characters(exclude_categories=()), max_size=60),
  st.text('$_%^\\{}<>&"\'/.- \n爱😀א\u0301\u202e\u200d', max_size=60),
)


@pytest.mark.parametrize(
  ('name', 'shown'),
  [
    ('cost_$5_$10', 'cost_$5_$10'),
    ('two\nlines', r'two\nlines'),
    ('half\udc80', r'half\udc80'),
    ('\u202eback', r'\u202eback'),
    ('诗', '诗'),
    ('👨\u200d👩', '👨\u200d👩'),  # joined, as one family
    ('', '“”'),
    ('  ', '“  ”'),
    ('\u200c\u0301', r'“\u200c\u0301”'),
    ('a' * 30, 'aaaaaaaaaa…aaaaaaaaa'),
    ('爱' * 30, '爱爱爱爱爱…爱爱爱爱'),
  ],
)
def test_a_label_is_one_line_that_can_be_read(name: str, shown: str) -> None:
  assert names.label(name, 20) == shown


def test_a_label_keeps_characters_whole() -> None:
  assert names.label('e\u0301' * 30, 9) == 'e\u0301' * 4 + '…' + 'e\u0301' * 4


@given(ANY)
def test_a_label_is_short_and_printable(name: str) -> None:
  shown = names.label(name, 20)
  assert 0 < cells.cell_len(shown) <= 22 and len(shown) <= 82
  assert all(map(names.shows, shown))
  shown.encode()


@given(st.lists(ANY, max_size=8))
def test_labels_differ(given: list[str]) -> None:
  shown = names.labels(given, 12)
  assert [*shown] == [*dict.fromkeys(given)]
  folded = {unicodedata.normalize('NFC', text) for text in shown.values()}
  assert len(folded) == len(shown)


def test_labels_that_are_cut_alike_are_numbered() -> None:
  x = 40 * 'x'
  found = names.labels([f'{x}1{x}', f'{x}2{x}', f'{x}3{x}'], 9)
  assert [*found.values()] == ['xxxx…xxxx', 'xxxx…xxxx (2)', 'xxxx…xxxx (3)']


@given(ANY)
def test_a_name_adds_no_markup(name: str) -> None:
  marked = str(page.name(name))
  inner = marked.removeprefix('<bdi>').removesuffix('</bdi>')
  assert len(inner) == len(marked) - 11
  assert not {'<', '>', '"', "'"} & {*inner}


@given(st.lists(ANY, min_size=1, max_size=3))
@settings(max_examples=40)
def test_any_names_can_be_drawn(given: list[str]) -> None:
  """Neither a formula nor a glyph that no font has, which would warn."""
  with matplotlib.rc_context(plots.STYLE), warnings.catch_warnings():
    warnings.simplefilter('error')
    fig = figure.Figure((2, 2), dpi=20)
    ax = fig.subplots()
    for label in plots.labels(given, 20).values():
      ax.plot([0], [0], label=label)
    legend = ax.legend()
    fig.canvas.draw()
  # none is left out
  assert len(legend.get_texts()) == len({*given})


def test_a_name_in_a_plot_is_shown_as_it_stands() -> None:
  with matplotlib.rc_context(plots.STYLE):
    text = figure.Figure().text(0, 0, plots.labels(['a_$5_$9'])['a_$5_$9'])
  assert text.get_text() == 'a_$5_$9' and not text.get_parse_math()


@pytest.mark.parametrize(
  ('given', 'files'),
  [
    # as they are, so that stored replies are found again
    (['rlmr-0', 'linear_0.5-1', '诗-0', 'cost_$5-0', 'a b-0'], None),
    (['A-0', 'a-0'], ['A-0-b4510afb170d', 'a-0-68571817c96c']),
    (['x' * 251], ['x' * 40 + '-f29bfcbb1aec']),
    (['half\udc80-0'], ['half_-0-5dc81a3a1fc0']),
    (['-dash', '.dot'], ['dash-ba2ec1ef6fd8', 'dot-6e3d63bbf09e']),
    ([''], ['name-e3b0c44298fc']),
  ],
)
def test_file_names(given: list[str], files: list[str] | None) -> None:
  found = [*names.file_names(given).values()]
  if files is None:
    assert found == given
  else:
    assert [name[:-12] for name in found] == [name[:-12] for name in files]


@example([' 0'])
@given(st.lists(ANY, max_size=6))
def test_file_names_are_safe_and_unique(given: list[str]) -> None:
  found = [*names.file_names(given).values()]
  assert len({name.casefold() for name in found}) == len({*given})
  for name in found:
    assert name == name.strip() and name[0] not in '-.'
    assert not {*'/\\:*?"<>|\0\n'} & {*name}
    assert len(f'{name}.jsonl.partial'.encode()) <= 255
