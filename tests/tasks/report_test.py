"""The report: what it computes, what it escapes, what it refuses."""

import html.parser
import json
import math
import pathlib
import re
from typing import Any

import ml_collections
import numpy as np
import pipeline
import pytest

from rlcw.evaluation import plots
from rlcw.tasks.report import run, runs, verdict


@pytest.fixture(autouse=True)
def blank_plots(
  request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
  """One test draws the plots of a page, 13 of them; the others do not."""
  if 'whole' not in request.node.name:
    for name in ('draw_curves', 'draw_rules'):
      monkeypatch.setattr(run, name, lambda *_: b'\x89PNG')


INJECTION = '<script>alert(1)</script></details>"\'&\x1b[31m\ud800\u202e'
VOID = {'meta', 'img', 'br', 'link', 'input', 'hr'}
RULES = {
  'length_constraints:number_words': 'Use at most 60 words.',
  'keywords:existence': 'Mention the “lighthouse”.',
  'punctuation:no_comma': 'Use no commas.',
  'zh:characters': '全文不超过一百字。',
}


def _reply(rng: np.random.Generator, ids: list[str], skill: float) -> dict:
  text = 'The lighthouse keeper kept one lamp for those who never came home. '
  return {
    'text': text * int(rng.integers(1, 4)),
    'writing': float(rng.normal(skill, 0.6)),
    'follow': [bool(rng.random() < 0.4 + 0.5 * skill) for _ in ids],
    'finished': bool(rng.random() < 0.9),
    'length': int(rng.integers(30, 90)),
  }


def _brief(rng: np.random.Generator, index: int, replies: int) -> dict:
  ids = [str(name) for name in rng.permutation(list(RULES))[:2]]
  return {
    'brief_id': f'brief-{index}',
    'language': 'zh' if index % 3 == 0 else 'en',
    'genre': 'greeting',
    'prompt': 'Write a short greeting to a sailor.',
    'instruction_id_list': ids,
    'rules': [RULES[name] for name in ids],
    'base': [_reply(rng, ids, 0.2) for _ in range(replies)],
    'trained': [_reply(rng, ids, 0.8) for _ in range(replies)],
  }


def _group(rng: np.random.Generator, step: int, size: int = 4) -> dict:
  replies = [_reply(rng, ['a', 'b'], 0.4) for _ in range(size)]
  for reply in replies:
    violated = not all(reply['follow'])
    reply |= {
      'violated': violated,
      'valid': True,
      'advantage': 0.5 - violated,
      'reward': reply['writing'] - 0.7 * violated,
    }
  return {
    'step': step,
    'brief_id': step * 3,
    'prompt': 'Greet a sailor.',
    'replies': replies,
  }


def _metrics(rng: np.random.Generator, step: int, steps: int) -> dict:
  done, noise = step / steps, rng.normal(0, 1, 4)
  return {
    'step': step,
    'reward': done,
    'pass_rate': 0.4 + 0.4 * done + 0.04 * noise[0],
    'writing': 0.2 + 0.5 * done + 0.08 * noise[1],
    'max_violator_advantage': None if step % 4 == 1 else -abs(noise[2]) - 0.1,
    'penalty_mean': 0.8 - 0.4 * done + 0.05 * noise[3],
    'penalty_max': 1.6 - 0.5 * done + 0.1 * noise[0],
    'length_mean': 60 + 5 * noise[1],
    'truncated': 0.1 * (1 - done),
    'kl': 0.02 * done,
    'entropy': 2.5 - done + 0.05 * noise[2],
    'repetition': 0.1 * done,
    **dict.fromkeys(('copied', 'phrase', 'marks'), 0.1 * done),
    'no_signal_groups': 0.25,
    'judge_good': None if step % 2 else 0.5 + 0.1 * done,
    'seconds_rollout': 80 if step == 0 else 8 + abs(noise[3]),
    'seconds_scoring': 1.5,
    'seconds_update': 30 if step == 0 else 5.0,
  }


def _evaluation(gain: float = 0.2, writing_gain: float = 0.5) -> dict:
  return {
    'briefs': 10,
    'replies_per_brief': 2,
    'pass_rate_base': 0.4321,
    'pass_rate_trained': 0.4321 + gain,
    'pass_rate_loose_base': 0.5,
    'pass_rate_loose_trained': 0.7,
    'writing_base': 0.21,
    'writing_trained': 0.21 + writing_gain,
    'finished_base': 0.9,
    'finished_trained': 0.95,
    'length_base': 60.0,
    'length_trained': 62.0,
    'distinct2_base': 0.81,
    'distinct2_trained': 0.8,
    'wall_seconds': 100.0,
    'pass_rate_difference': {
      'mean': gain,
      'low': gain - 0.1,
      'high': gain + 0.1,
    },
    'writing_difference': {
      'mean': writing_gain,
      'low': writing_gain - 0.1,
      'high': writing_gain + 0.1,
    },
  }


def _write_lines(path: pathlib.Path, records: list[dict]) -> None:
  path.write_text(''.join(json.dumps(record) + '\n' for record in records))


def make_runs(
  folder: pathlib.Path, steps: int = 12, briefs: int = 10, replies: int = 2
) -> ml_collections.ConfigDict:
  """Writes three finished runs with plausible numbers; returns the config."""
  rng = np.random.default_rng(0)
  names = ('reward_model', 'grpo', 'evaluate')
  for name in names:
    (folder / name).mkdir(parents=True)
  summaries = {
    'reward_model/summary.json': {
      'heldout_accuracy': 0.84,
      'length_only_accuracy': 0.61,
      'matched_accuracy': 0.77,
      'matched_length_only': 0.52,
      'matched_pairs': 33,
      'calibration_error': 0.04,
      'heldout_pairs': 120,
      'train_accuracy': 0.93,
      'train_pairs': 900,
      'length_correlation': 0.12,
      'wall_seconds': 65.5,
    },
    'grpo/summary.json': {
      'steps': steps,
      'wall_seconds': 4000.0,
      'max_violator_advantage': -0.25,
      'warnings': [],
      'unmonitored': {'judge': 'nobody was asked'},
      'compilations': 4,
      'hardware': {
        'platform': 'cpu',
        'cpu': 'Xeon',
        'cores': 16,
        'memory_gib': 64.0,
        'jax': '0.10.2',
      },
    },
    'grpo/config.json': {
      'task': 'grpo',
      'mixing': {'name': 'rlmr', 'margin': 0.1},
      'empty': {},
    },
    'evaluate/summary.json': _evaluation(),
  }
  for name, record in summaries.items():
    (folder / name).write_text(json.dumps(record))
  _write_lines(
    folder / 'grpo/metrics.jsonl',
    [_metrics(rng, step, steps) for step in range(steps)],
  )
  _write_lines(
    folder / 'grpo/rollouts.jsonl', [_group(rng, step) for step in range(steps)]
  )
  _write_lines(
    folder / 'evaluate/evaluation.jsonl',
    [_brief(rng, index, replies) for index in range(briefs)],
  )
  folders = {name: str(folder / name) for name in names}
  return ml_collections.ConfigDict({'task': 'report', **folders})


def _edit(path: pathlib.Path, **fields: Any) -> None:
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class _Page(html.parser.HTMLParser):
  """Holds the text, tags and addresses of a page, and that its tags pair up."""

  def __init__(self, text: str) -> None:
    super().__init__()
    self.open: list[str] = []
    self.tags: list[tuple[str, dict]] = []
    self.text = ''
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag: str, attrs: list) -> None:
    self.tags.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag: str) -> None:
    assert self.open.pop() == tag, self.getpos()

  def handle_data(self, data: str) -> None:
    if 'style' not in self.open:
      self.text += data


def _page(workdir: pathlib.Path) -> _Page:
  return _Page((workdir / 'report.html').read_text(encoding='utf-8'))


def test_page_is_whole_and_self_contained(tmp_path: pathlib.Path) -> None:
  run.run(make_runs(tmp_path), tmp_path / 'out')
  source = (tmp_path / 'out/report.html').read_text(encoding='utf-8')
  page = _Page(source)
  assert source.lstrip().startswith('<!DOCTYPE html>')
  for tag, attributes in page.tags:
    assert tag not in ('script', 'link', 'iframe', 'object')
    assert attributes.get('src', 'data:').startswith(
      'data:image/png;base64,' if tag == 'img' else ''
    )
    assert attributes.get('href', '#').startswith('#')
  assert not re.search(r'url\(|@import', source)
  assert 'http://' not in source and 'https://' not in source
  images = [attributes for tag, attributes in page.tags if tag == 'img']
  assert len(images) == len(plots.PANELS) + 1
  assert all(attributes['alt'] for attributes in images)
  ids = {attributes.get('id') for _, attributes in page.tags}
  assert {a['href'][1:] for tag, a in page.tags if tag == 'a'} <= ids
  for name in ('curves.png', 'rules.png'):
    assert (tmp_path / 'out' / name).read_bytes().startswith(b'\x89PNG')


def test_page_has_the_numbers(tmp_path: pathlib.Path) -> None:
  run.run(make_runs(tmp_path), tmp_path / 'out')
  text = ' '.join(_page(tmp_path / 'out').text.split())
  for expected in (
    'Better than before on both counts: keeps all rules 43.2% → 63.2%',
    'replies 3% longer; distinct-2 0.810 → 0.800.',
    '43.2%',
    '63.2%',
    '+20.0 points',
    '+10.0 to +30.0',
    '+0.40 to +0.60',
    '84.0%',
    '61.0%',
    '77.0%',
    '+0.12',
    '−0.250',
    'mixing.margin',
    'Xeon',
    '1 h 9 min',
    '1 min 40 s',
    '✗ broken:',
    '全文不超过一百字。',
    '✂ cut off (truncated)',
  ):
    assert expected in text, expected


def test_summary(tmp_path: pathlib.Path) -> None:
  summary = pipeline.run('report', make_runs(tmp_path), tmp_path / 'out')
  assert summary == json.loads((tmp_path / 'out/summary.json').read_text())
  assert summary['pass_rate_base'] == pytest.approx(0.4321)
  assert summary['writing_trained'] == pytest.approx(0.71)
  assert summary['steps'] == 12
  assert summary['wall_seconds'] == pytest.approx(4165.5)
  assert summary['reward_model']['matched_accuracy'] == 0.77
  assert summary['hardware']['platform'] == 'cpu'
  assert summary['pass_rate_difference']['low'] == pytest.approx(0.1)


def test_worst_violator_advantage_of_curve_and_summary(
  tmp_path: pathlib.Path,
) -> None:
  config = make_runs(tmp_path)
  path = tmp_path / 'grpo/metrics.jsonl'
  row = json.loads(path.read_text().splitlines()[3])
  row['max_violator_advantage'] = 0.125
  with path.open('a') as file:
    file.write(json.dumps(row) + '\n')
  summary = run.run(config, tmp_path / 'out')
  assert summary['max_violator_advantage'] == 0.125
  assert 'Breaking a rule paid' in _page(tmp_path / 'out').text


def test_an_advantage_of_0_pays_nothing(tmp_path: pathlib.Path) -> None:
  config = make_runs(tmp_path)
  path = tmp_path / 'grpo/metrics.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  _write_lines(path, [row | {'max_violator_advantage': 0.0} for row in rows])
  _edit(tmp_path / 'grpo/summary.json', max_violator_advantage=0.0)
  run.run(config, tmp_path / 'out')
  text = _page(tmp_path / 'out').text
  assert 'Breaking a rule paid' not in text and 'never paid' in text


WARNING = {
  'monitor': 'length',
  'step': 9,
  'value': 1.75,
  'threshold': 1.5,
  'text': f'replies grew {INJECTION}',
}


def test_the_verdict_comes_first_and_warnings_next(
  tmp_path: pathlib.Path,
) -> None:
  config = make_runs(tmp_path)
  run.run(config, tmp_path / 'out')
  text = ' '.join(_page(tmp_path / 'out').text.split())
  assert 'No monitor of reward hacking tripped.' in text
  assert 'Not monitored: judge, as nobody was asked.' in text
  first = text.index('Better than before')
  assert first < text.index('Training') < text.index('Not monitored')
  _edit(tmp_path / 'grpo/summary.json', warnings=[WARNING])
  summary = run.run(config, tmp_path / 'out')
  assert summary['warnings'][0]['value'] == 1.75
  page = _page(tmp_path / 'out')
  text = ' '.join(page.text.split())
  assert 'script' not in {tag for tag, _ in page.tags}
  assert 'No monitor' not in text
  place = text.index('length, step 9: replies grew <script>')
  assert text.index('Better than before') < text.index('Warning: ') < place
  assert place < text.index('Results')
  assert 'may have learned to game its reward' in text
  # It has stopped the run, which then went on; or is unfinished.
  _write_lines(tmp_path / 'grpo/stops.jsonl', [WARNING])
  run.run(config, tmp_path / 'out')
  told = 'length, step 9, stopped the run: replies grew <script>'
  assert told in ' '.join(_page(tmp_path / 'out').text.split())
  finished = (tmp_path / 'grpo/summary.json').read_text()
  (tmp_path / 'grpo/summary.json').unlink()
  assert run.run(config, tmp_path / 'out')['warnings'] == [WARNING]
  assert told in ' '.join(_page(tmp_path / 'out').text.split())
  # A resumed run leaves none of the steps that it repeats.
  (tmp_path / 'grpo/stops.jsonl').write_text('')
  assert run.run(config, tmp_path / 'out')['warnings'] is None
  (tmp_path / 'grpo/summary.json').write_text(finished)
  _edit(
    tmp_path / 'grpo/summary.json',
    warnings=[WARNING | {'monitor': 'no_signal'}],
  )
  run.run(config, tmp_path / 'out')
  assert 'game its reward' not in _page(tmp_path / 'out').text


def test_runs_older_than_the_monitors_are_read(tmp_path: pathlib.Path) -> None:
  config = make_runs(tmp_path)
  new = 'repetition', 'no_signal_groups', 'judge_good'
  new += 'copied', 'phrase', 'marks'  # in one panel
  path = tmp_path / 'grpo/metrics.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  _write_lines(
    path, [{k: v for k, v in r.items() if k not in new} for r in rows]
  )
  path = tmp_path / 'grpo/summary.json'
  old = json.loads(path.read_text())
  del old['warnings'], old['unmonitored']
  path.write_text(json.dumps(old))
  assert run.run(config, tmp_path / 'out')['warnings'] is None
  page = _page(tmp_path / 'out')
  assert 'older than the monitors' in page.text
  images = [tag for tag, _ in page.tags if tag == 'img']
  assert len(images) == len(plots.PANELS) - 4 + 1


def test_no_mixed_group_at_all(tmp_path: pathlib.Path) -> None:
  config = make_runs(tmp_path)
  path = tmp_path / 'grpo/metrics.jsonl'
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  _write_lines(path, [row | {'max_violator_advantage': None} for row in rows])
  _edit(tmp_path / 'grpo/summary.json', max_violator_advantage=None)
  summary = run.run(config, tmp_path / 'out')
  assert summary['max_violator_advantage'] is None
  assert 'not put to the test' in _page(tmp_path / 'out').text


def test_repeated_step_counts_once_and_last(tmp_path: pathlib.Path) -> None:
  config = make_runs(tmp_path)
  path = tmp_path / 'grpo/metrics.jsonl'
  row = json.loads(path.read_text().splitlines()[5])
  with path.open('a') as file:
    file.write(json.dumps(row | {'pass_rate': 0.99}) + '\n')
  metrics = runs.read_runs(config).metrics
  assert metrics['step'].tolist() == list(range(12))
  assert metrics['pass_rate'][5] == 0.99
  assert math.isnan(metrics['max_violator_advantage'][1])


def test_replies_are_escaped_and_bounded(tmp_path: pathlib.Path) -> None:
  config = make_runs(tmp_path)
  path = tmp_path / 'evaluate/evaluation.jsonl'
  briefs = [json.loads(line) for line in path.read_text().splitlines()]
  briefs[0] |= {
    'prompt': INJECTION,
    'genre': INJECTION,
    'language': INJECTION,
    'brief_id': INJECTION,
    'rules': [INJECTION, INJECTION],
  }
  briefs[0]['base'][0]['text'] = INJECTION + 'x' * 5000
  briefs[0]['instruction_id_list'][0] = INJECTION
  _write_lines(path, briefs)
  path = tmp_path / 'grpo/rollouts.jsonl'
  group = json.loads(path.read_text().splitlines()[0])
  group['replies'][0]['text'] = INJECTION
  _write_lines(path, [group])
  _edit(tmp_path / 'grpo/config.json', **{INJECTION: INJECTION})
  run.run(config, tmp_path / 'out')
  page = _page(tmp_path / 'out')
  assert 'script' not in {tag for tag, _ in page.tags}
  assert '<script>alert(1)</script></details>"\'&␛[31m\ufffd\ufffd' in page.text
  assert '\x1b' not in page.text
  assert 'x' * 1900 in page.text and 'x' * 2001 not in page.text
  assert f'[…{len(INJECTION) + 3000} more characters]' in page.text


def test_first_eight_briefs_open_and_most_changed_first(
  tmp_path: pathlib.Path,
) -> None:
  config = make_runs(tmp_path)
  path = tmp_path / 'evaluate/evaluation.jsonl'
  briefs = [json.loads(line) for line in path.read_text().splitlines()]
  for reply in briefs[7]['base']:
    reply['follow'] = [False, False]
  for reply in briefs[7]['trained']:
    reply |= {'follow': [True, True], 'writing': 9.0}
  _write_lines(path, briefs)
  run.run(config, tmp_path / 'out')
  source = (tmp_path / 'out/report.html').read_text(encoding='utf-8')
  replies = source[source.index('id="replies"') : source.index('id="groups"')]
  states = re.findall(r'<details( open)?>\s*<summary><b><bdi>([^<]*)', replies)
  assert states[0] == (' open', 'brief-7')
  assert [bool(state) for state, _ in states] == [True] * 8 + [False] * 2


@pytest.mark.parametrize(
  ('rules', 'writing', 'words'),
  [
    (0.2, 0.5, 'Better than before on both counts'),
    (0.2, 0.02, 'Better than before in keeping rules, with no clear change in'),
    (0.2, -0.5, 'Mixed: rules are kept more often, but the writing score fell'),
    (0.01, 0.5, 'Better than before in writing, with no clear change in the'),
    (0.01, 0.01, 'No clear difference from before'),
    (0.0, -0.4, 'Worse than before: the writing score fell, rules are kept no'),
    (-0.2, 0.5, 'Mixed: rules are kept less often, though the writing score'),
    (-0.2, 0.0, 'Worse than before: rules are kept less often, the writing is'),
    (-0.2, -0.5, 'Worse than before on both counts'),
  ],
)
def test_verdict_says_whether_it_is_better(
  rules: float, writing: float, words: str
) -> None:
  summary = _evaluation(rules, writing)
  found = verdict.verdict(summary, {'finished': True}, True)
  assert found.startswith(words)


@pytest.mark.parametrize(
  ('before', 'after', 'words'),
  [
    (50.0, 56.0, 'replies 12% longer'),
    (50.0, 40.0, 'replies 20% shorter'),
    (50.0, 50.1, 'replies as long as before'),
    (0.0, 3.0, 'length of replies unknown'),
    (None, 3.0, 'length of replies unknown'),
  ],
)
def test_verdict_has_the_length(
  before: float | None, after: float, words: str
) -> None:
  summary = _evaluation() | {'length_base': before, 'length_trained': after}
  assert words in verdict.verdict(summary, {'finished': True}, True)


def test_verdict_on_briefs_without_rules_is_about_the_writing() -> None:
  found = verdict.verdict(_evaluation(0.0), {'finished': True}, False)
  assert found.startswith('Better than before in writing: writing score 0.21 →')
  assert 'rules' not in found


def test_rules_without_any_verdict_decide_nothing() -> None:
  summary = _evaluation() | {'pass_rate_base': None, 'pass_rate_trained': None}
  found = verdict.verdict(summary, {'finished': True}, True)
  assert found.startswith('Better than before in writing: no verdict on the ru')


def test_a_difference_that_is_not_known_is_a_dash_without_a_unit() -> None:
  none = {'mean': None, 'low': None, 'high': None}
  summary = _evaluation() | {'pass_rate_difference': none, 'length_base': None}
  rows = verdict.headline(summary)
  assert rows['pass_rate'][3:] == ('–', '')
  assert rows['pass_rate_loose'][3:] == ('+20.0 points', '')
  assert rows['length'][1:] == ('–', '62.0', '–', '')


def test_one_step_nulls_and_no_rules(tmp_path: pathlib.Path) -> None:
  config = make_runs(tmp_path, steps=1, briefs=1, replies=1)
  path = tmp_path / 'evaluate/evaluation.jsonl'
  brief = json.loads(path.read_text())
  for reply in brief['base'] + brief['trained']:
    reply |= {'follow': [], 'writing': None}
  _write_lines(path, [brief | {'rules': [], 'instruction_id_list': []}])
  path = tmp_path / 'grpo/metrics.jsonl'
  row = dict.fromkeys(json.loads(path.read_text()))
  _write_lines(path, [row | {'step': 0}])
  none = {'mean': None, 'low': None, 'high': None}
  _edit(
    tmp_path / 'evaluate/summary.json',
    writing_difference=none,
    writing_base=math.nan,
    writing_trained=None,
    wall_seconds=None,
  )
  summary = run.run(config, tmp_path / 'out')
  assert summary['writing_base'] is None
  assert 'unknown' in _page(tmp_path / 'out').text


def test_rule_rates_count_replies_and_sort_by_gain() -> None:
  def reply(*follow: bool) -> dict:
    return {'follow': list(follow)}

  rates = run.rule_rates(
    [
      {
        'instruction_id_list': ['a', 'b'],
        'base': [reply(True, False)] * 2,
        'trained': [reply(True, True), reply(False, True)],
      },
      {
        'instruction_id_list': ['b'],
        'base': [reply(True)],
        'trained': [reply(True)],
      },
    ]
  )
  assert [rate['name'] for rate in rates] == ['b', 'a']
  assert rates[0]['base'][:2] == (3, pytest.approx(1 / 3))
  assert rates[0]['trained'][:2] == (3, 1.0)
  assert rates[1]['trained'][:2] == (2, 0.5)


def test_a_rule_s_interval_is_over_briefs() -> None:
  def brief(kept: bool, replies: int) -> dict:
    group = [{'follow': [kept]}] * replies
    return {'instruction_id_list': ['a'], 'base': group, 'trained': group}

  def ends(replies: int, *kept: bool) -> list[float]:
    (rate,) = run.rule_rates([brief(each, replies) for each in kept])
    return rate['base'][2:]

  # replies to one brief are alike: more of them tell no more
  assert ends(9, True, False, True) == pytest.approx(ends(1, True, False, True))
  low, high = ends(4, *[True] * 20)
  assert 0.7 < low < 0.9 and high == 1
  assert np.isnan(ends(4, True)).all()
  # briefs of one prompt are alike, too
  alike = [
    brief(kept, 1) | {'group': n // 2} for n, kept in enumerate([1, 0] * 9)
  ]
  (rate,) = run.rule_rates(alike)
  apart = ends(1, *[True, False] * 9)
  assert rate['base'][2] < apart[0] and rate['base'][3] > apart[1]


def test_the_page_says_over_which_chance_and_words(
  tmp_path: pathlib.Path,
) -> None:
  config = make_runs(tmp_path)
  run.run(config, tmp_path / 'out')
  page = _page(tmp_path / 'out').text
  assert '95% interval, briefs only' in page
  assert 'measured by an earlier version' in page
  _edit(
    tmp_path / 'evaluate/summary.json',
    diversity_words=4321,
    win_rate=0.6,
    win_rate_interval=[0.5, 0.7],
    length_controlled_win_rate=None,
    length_controlled_reason='ours is longer',
  )
  run.run(config, tmp_path / 'out')
  page = ' '.join(_page(tmp_path / 'out').text.split())
  assert 'of the same 4321 words of each model' in page
  assert 'the share is not identified: ours is longer.' in page


def test_groups_of_three_steps_mixed_first() -> None:
  def group(step: int, *violated: bool) -> dict:
    return {
      'step': step,
      'replies': [{'violated': flag, 'valid': True} for flag in violated],
    }

  groups = [
    group(0, True, True),
    group(0, False),
    group(0, True, False),
    group(1, True),
    group(2, False, True),
    group(3, True),
    group(4, True),
  ]
  picked = run.pick_groups(groups)
  assert [g['step'] for g in picked] == [0, 0, 2, 4]
  assert [g['mixed'] for g in picked] == [True, False, True, False]


def test_torn_last_line_is_skipped_with_a_note(tmp_path: pathlib.Path) -> None:
  config = make_runs(tmp_path)
  with (tmp_path / 'grpo/rollouts.jsonl').open('ab') as file:
    file.write('{"step": 12, "prompt": "写'.encode()[:-1])
  run.run(config, tmp_path / 'out')
  assert 'rollouts.jsonl:13 breaks off' in _page(tmp_path / 'out').text


@pytest.mark.parametrize(
  ('name', 'content', 'words'),
  [
    ('grpo/metrics.jsonl', '{"step": 0}\n', 'jsonl:1: pass_rate is missing'),
    ('grpo/metrics.jsonl', '{"step": 0}', 'jsonl:1: pass_rate is missing'),
    ('grpo/metrics.jsonl', 'oops\n', 'jsonl:1: expected one JSON object'),
    ('grpo/metrics.jsonl', '', 'jsonl: expected at least one whole line'),
    ('grpo/rollouts.jsonl', '[1]\n', 'jsonl:1: it should be dict, not'),
    (
      'grpo/rollouts.jsonl',
      '{"step": 0, "brief_id": 1, "prompt": "", "replies": [{"text": 3}]}\n',
      'replies.text should be str, not 3; replies.writing is missing',
    ),
    (
      'grpo/rollouts.jsonl',
      '{"step": 0, "brief_id": 1, "prompt": "", "replies": []}\n',
      r'replies should be list, not \[\]',
    ),
    ('evaluate/summary.json', '{"briefs": "x"', 'expected one JSON object'),
    (
      'grpo/summary.json',
      '{"steps": 1, "hardware": {}, "warnings": 3}',
      'warnings should be list, not 3',
    ),
    (
      'grpo/summary.json',
      '{"steps": 1, "hardware": {}, "warnings": [{}]}',
      'warnings.monitor is missing',
    ),
    ('reward_model/summary.json', '{}', 'heldout_accuracy is missing'),
  ],
)
def test_malformed_input_names_file_line_and_field(
  tmp_path: pathlib.Path, name: str, content: str, words: str
) -> None:
  config = make_runs(tmp_path)
  (tmp_path / name).write_text(content)
  with pytest.raises(ValueError, match=words) as error:
    run.run(config, tmp_path / 'out')
  assert str(error.value).startswith(str(tmp_path / name))
  assert not (tmp_path / 'out').exists()


def test_rules_and_verdicts_must_pair_up(tmp_path: pathlib.Path) -> None:
  config = make_runs(tmp_path)
  path = tmp_path / 'evaluate/evaluation.jsonl'
  brief = json.loads(path.read_text().splitlines()[0])
  brief['trained'][1]['follow'].append(True)
  _write_lines(path, [brief])
  with pytest.raises(ValueError, match="evaluation.jsonl, brief 'brief-0'"):
    run.run(config, tmp_path / 'out')


@pytest.mark.parametrize(
  'name',
  [
    'reward_model/summary.json',
    'grpo/rollouts.jsonl',
    'grpo/config.json',
    'evaluate/evaluation.jsonl',
  ],
)
def test_missing_file_names_path_and_field(
  tmp_path: pathlib.Path, name: str
) -> None:
  config = make_runs(tmp_path)
  (tmp_path / name).unlink()
  task = name.split('/')[0]
  with pytest.raises(FileNotFoundError, match=f'{name} is .*config.{task} '):
    run.run(config, tmp_path / 'out')
