"""The page and plots of a comparison, whatever its arms are named."""

import io
import pathlib
import re
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import rich

from rlcw import main
from rlcw.rewards.briefs import Brief
from rlcw.tasks.compare import arms, logs, page
from tests.tasks import report_test

# As names of arms.  The first ended a comparison after all its work.
HARD = (
  'cost_$5_$10',
  r'\frac{1}{2}$',
  '_hidden',
  '100%',
  'x^2_3',
  'back\\slash',
  '<script>alert(1)</script>',
  '"quoted" & \'so\'',
  'two\nlines',
  '[bold]markup[/] [/red]',
  ':smile:',
  '诗歌',
  '😀🙃',
  'שלום',
  '\u202ereversed',
  'e' + 9 * '\u0301',
  'x' * 300 + 'a',
  'x' * 300 + 'b',
  '-dash',
  '.dot',
  ' ',
  'half\udc80',
)


def _reply(rng: np.random.Generator, text: str) -> dict[str, Any]:
  follow = [bool(rng.random() < 0.6)]
  return {
    'text': f'{text} {rng.integers(99)} lamps were lit.',
    'writing': rng.normal(),
    'unseen': rng.normal(),
    'follow': follow,
    'strict': float(follow[0]),
    'loose': float(follow[0]),
    'finished': bool(rng.random() < 0.9),
    'length': int(rng.integers(20, 60)),
    'kl': 0.1,
  }


def write(
  folder: pathlib.Path,
  names: tuple[str, ...],
  more: dict[str, Any] | None = None,
  steps: int = 3,
) -> None:
  """Writes the page of arms of one run each, with more in its summary."""
  rng = np.random.default_rng(0)
  runs = {name: f'{name}-0' for name in names}
  briefs = [
    Brief(f'b{i}', 'Greet.', ('length:words',), ({'at_most': 9},))
    for i in range(3)
  ]
  replies = {
    name: [[_reply(rng, name) for _ in range(2)] for _ in briefs]
    for name in (arms.BASE, *runs.values())
  }
  features = {name: rng.normal(size=(3, 2, 4)) for name in replies}
  _write(folder, replies, features, briefs, more or {}, steps)


def _write(
  folder: pathlib.Path,
  replies: dict[str, Any],
  features: dict[str, np.ndarray],
  briefs: list[Brief],
  more: dict[str, Any],
  steps: int = 3,
) -> None:
  """Writes the page of replies of the base and of runs, by their names."""
  rng = np.random.default_rng(0)
  ids = [brief.instruction_id_list for brief in briefs]
  table = arms.measure(replies, features, ids, 'en', ('linear',))
  for arm in table['arms'].values():
    arm['numbers']['raised'] = 0.1
  runs = [name for name in replies if name != arms.BASE]
  summary = {
    'briefs': len(briefs),
    'replies_per_brief': len(replies[arms.BASE][0]),
    'steps': steps,
    'notes': [],
    'scorers': {'unseen': 0.9},
    'benchmark': {},
    'warnings': {run: [] for run in runs},
    **table,
    **more,
  }
  histories = {
    run: [report_test._metrics(rng, step, steps) for step in range(steps)]
    for run in runs
  }
  folder.mkdir(exist_ok=True)
  page.write(folder, summary, replies, briefs, histories)


@pytest.fixture
def blank_plots(monkeypatch: pytest.MonkeyPatch) -> None:
  for name in ('draw_plane', 'draw_bands', 'draw_drift'):
    monkeypatch.setattr(page, name, lambda *_: b'\x89PNG')


def _draw(folder: pathlib.Path, names: tuple[str, ...]) -> None:
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # such as of a glyph that no font has
    write(folder, names)
  for name in ('plane', 'bands', 'drift'):
    assert (folder / f'{name}.png').read_bytes().startswith(b'\x89PNG')


def test_names_of_arms_are_no_formulas(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  for name in ('draw_bands', 'draw_drift'):
    monkeypatch.setattr(page, name, lambda *_: b'\x89PNG')
  _draw(tmp_path, ('cost_$5_$10', '_hidden', '诗\n\udc80'))


@pytest.mark.slow
def test_any_names_of_arms_are_drawn(tmp_path: pathlib.Path) -> None:
  _draw(tmp_path, ('rlmr', *HARD))


@pytest.mark.usefixtures('blank_plots')
def test_any_names_of_arms_are_written(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  write(tmp_path, ('rlmr', *HARD))
  found = report_test._page(tmp_path)
  assert 'script' not in {tag for tag, _ in found.tags}
  for shown in (
    'cost_$5_$10',
    '<script>alert(1)</script>',
    r'two\nlines',
    '[bold]markup[/] [/red]',
    ':smile:',
    '诗歌',
    r'\u202ereversed',
    r'half\udc80',
    '“ ”',
  ):
    assert shown in found.text, shown
  # two names that are alike when they are shortened
  x = 24 * 'x'
  assert f'{x}…{x[2:]}a' in found.text and f'{x}…{x[2:]}b' in found.text
  assert '[/red]' in capsys.readouterr().out  # no markup


READ = {'run': 'runs/rlmr-0', 'step': 2, 'steps': 3, 'finished': False}


@pytest.mark.usefixtures('blank_plots')
@pytest.mark.parametrize(
  ('read', 'words'),
  [
    ({}, 'Read: all 2 runs at step 3 of 3.'),
    ({'read': [READ]}, 'Read: runs/rlmr-0 at step 2 of 3, not finished.'),
    (
      {'read': [READ]},
      'Not all runs have finished: runs/rlmr-0 was read at step 2 of 3. rlmr',
    ),
    (
      {'read': [READ | {'finished': True}, READ | {'run': 'x-1'}]},
      'Not all runs have finished: x-1 was read at step 2 of 3. rlmr ',
    ),
  ],
)
def test_a_page_says_which_steps_were_read(
  tmp_path: pathlib.Path, read: dict[str, Any], words: str
) -> None:
  write(tmp_path, ('rlmr', 'linear_1'), read)
  text = ' '.join(report_test._page(tmp_path).text.split())
  assert words in text
  assert 'number of words' in text and 'distinct-2' in text


@pytest.mark.parametrize(
  ('name', 'content', 'words'),
  [
    ('metrics.jsonl', '', 'metrics.jsonl: expected at least one line'),
    ('metrics.jsonl', '{"step": 0}\n', "metrics.jsonl:1: 'pass_rate' is miss"),
    ('metrics.jsonl', '{"step": 0\n', 'metrics.jsonl:1: not JSON'),
    ('metrics.jsonl', '{"step": "x"}\n', "metrics.jsonl:1: step='x'; expected"),
    ('rollouts.jsonl', '{"replies": [{}]}\n', "jsonl:1: 'valid' is missing"),
    ('rollouts.jsonl', '{"replies": 3}\n', 'rollouts.jsonl:1: '),
    ('summary.json', '[]', 'summary.json: expected a summary'),
    ('summary.json', '{', 'summary.json: expected a summary'),
  ],
)
def test_spoiled_logs_are_named_before_the_work(
  tmp_path: pathlib.Path, name: str, content: str, words: str
) -> None:
  report_test.make_runs(tmp_path, steps=1, briefs=1, replies=1)
  folder = tmp_path / 'grpo'
  assert len(logs.read_logs(folder).history) == 1
  (folder / name).write_text(content)
  with pytest.raises(ValueError, match=re.escape(words)):
    logs.read_logs(folder)


def test_a_terminal_without_unicode_gets_escapes(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  written = io.BytesIO()
  terminal = io.TextIOWrapper(written, 'ascii')
  monkeypatch.setattr(sys, 'stdout', terminal)
  main.print_anything()
  rich.print('诗')
  print('31% → 45%', flush=True)
  assert written.getvalue() == b'\\u8bd7\n31% \\u2192 45%\n'


def _run(rng: np.random.Generator, mean: float, text: str) -> list[list[dict]]:
  replies = [
    _reply(rng, '') | {'text': text, 'length': len(text), 'unseen': score}
    for score in rng.normal(mean, 1, 12)
  ]
  return [[each | {'strict': 1.0, 'follow': [True]}] for each in replies]


def _words(folder: pathlib.Path, **runs: list[list[dict]]) -> str:
  """The text of a page about these runs, with a dash for each underscore."""
  replies = {name.replace('_', '-'): run for name, run in runs.items()}
  brief = Brief('b', 'Greet.', ('length:words',), ({'at_most': 9},))
  features = {name: np.ones((12, 1, 2)) for name in replies}
  _write(folder, replies, features, [brief] * 12, {})
  return ' '.join(report_test._page(folder).text.split())


@pytest.mark.usefixtures('blank_plots')
def test_intervals_of_one_seed_are_called_so(tmp_path: pathlib.Path) -> None:
  rng = np.random.default_rng(0)
  words = _words(
    tmp_path,
    base=_run(rng, 0, 'a b c'),
    rlmr_0=_run(rng, 9, 'a b c'),
    rlmr_1=_run(rng, 9, 'a b c'),
    gate_0=_run(rng, -9, 'd e f'),
  )
  assert re.search('rlmr ?2 runs ?briefs and seeds', words)
  assert re.search('gate ?1 run ?briefs only', words)
  assert 'interval over briefs and seeds' in words
  assert (
    'rlmr is better than gate (briefs, seeds of one arm only); cannot be '
    'compared with base' in words  # of which each brief has one reply
  )
  assert '95% intervals over briefs, seeds of one arm only.' in words
  assert 'are of the same 36 words of every run' in words
  assert 'not identified –' not in words


@pytest.mark.usefixtures('blank_plots')
def test_a_headline_that_was_picked_says_so(tmp_path: pathlib.Path) -> None:
  rng = np.random.default_rng(0)
  two = {
    'base': _run(rng, 0, 'a b c'),
    'gate_0': _run(rng, -9, 'd e f'),
    'linear_0': _run(rng, 9, 'd e f'),
  }
  words = _words(tmp_path / 'two', **two)
  assert 'linear, the best of 2 arms on these same briefs, which favou' in words
  assert 'Of the linear arms only' not in words
  del two['gate_0']
  assert 'on these same briefs' not in _words(tmp_path / 'one', **two)


def test_the_base_is_never_the_headline() -> None:
  found = {
    arm: {'numbers': {'kept_and_better': share}}
    for arm, share in (('base', 0.5), ('gate', 0.1), ('gdpo', 0.2))
  }
  assert page.headline_arm({'arms': found}) == 'gdpo'


@pytest.mark.usefixtures('blank_plots')
def test_each_benchmark_has_its_section(tmp_path: pathlib.Path) -> None:
  keys = ('prompt_strict', 'prompt_loose')
  keys += ('instruction_strict', 'instruction_loose')
  gain = {'mean': 0.1, 'low': -0.1, 'high': 0.3}
  found = {
    'base': dict.fromkeys(keys, 0.25) | {'gain': None},
    'rlmr': dict.fromkeys(keys, 0.375) | {'gain': gain},
  }
  for name, other in (('benchmark', 'ifbench'), ('ifbench', 'benchmark')):
    write(tmp_path, ('rlmr',), {name: found, other: {}})
    text = (tmp_path / 'report.html').read_text('utf-8')
    headings = {'benchmark': 'IFEval: did', 'ifbench': 'IFBench: are rules'}
    assert headings[name] in text and headings[other] not in text
    assert '37.5%' in text and '(−10.0% to +30.0%)' in text


@pytest.mark.usefixtures('blank_plots')
def test_a_difference_that_is_not_known_is_called_so(
  tmp_path: pathlib.Path,
) -> None:
  rng = np.random.default_rng(0)
  unknown = {'strict': None, 'loose': None, 'follow': [None]}
  runs = {
    name: [[reply | unknown for reply in group] for group in run]
    for name, run in (
      ('base', _run(rng, 0, 'a b c')),
      ('rlmr_0', _run(rng, 9, 'a b c')),
    )
  }
  words = _words(tmp_path, **runs)
  assert 'rlmr cannot be compared with base' in words
  assert 'no clear difference' not in words


@pytest.mark.usefixtures('blank_plots')
def test_a_rate_that_is_not_identified_is_called_so(
  tmp_path: pathlib.Path,
) -> None:
  rng = np.random.default_rng(0)
  words = _words(
    tmp_path,
    base=_run(rng, 0, 'a b c'),
    rlmr_0=_run(rng, 1, 'a b c d e f g'),
  )
  # by the unseen scorer; there is no judge
  assert re.search(
    r'rlmr ?briefs only ?\S+% ?\S+% to \S+% ?not identified ?– ?–', words
  )
