"""Replies in, verdicts out: by a model here, and by one behind a server."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pipeline
import pytest
from server import Fault, prompt_of, serving
from stub_judges import quoted, verdict

from rlcw.data import datasets
from rlcw.models import language_model
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.runtime import files
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling.outage import NoAnswers

ROWS = [
  {'id': n, 'prompt': 'To the sea', 'response': 'wave ' * (1 + 3 * n)}
  for n in range(11)
]


def shipped(workdir: pathlib.Path, rows: list[dict[str, Any]]) -> Any:
  file = workdir / 'replies.jsonl'
  file.unlink(missing_ok=True)
  for row in rows:
    files.append_jsonl(file, row)
  config = pipeline.shipped('judge')
  config.update({'input': str(file), 'batch_size': 8})
  (workdir / 'principles.md').write_text('Be kind.')
  config.judge.principles = str(workdir / 'principles.md')
  return config


def judge(config: Any, workdir: pathlib.Path) -> tuple[list[Any], Any]:
  summary = pipeline.run('judge', config, workdir)
  told = json.loads((workdir / 'summary.json').read_text())
  assert told['replies'] == summary['replies']
  return datasets.read_jsonl(workdir / 'verdicts.jsonl'), told


def test_a_model_here_judges_every_line(
  make_judge: Callable[[str], pathlib.Path], tmp_path: pathlib.Path
) -> None:
  folder = make_judge('llama3')
  config = shipped(tmp_path, ROWS)
  config.judge.model = str(folder)
  rows, told = judge(config, tmp_path)
  mesh = make_mesh(devices=jax.devices()[:1])
  panel = LogprobJudge(language_model.load(folder, mesh), 11)
  question = factory.make_question('judge', config.judge)
  expected = questions.judge(
    panel,
    question,
    [row['prompt'] for row in ROWS],
    [[row['response']] for row in ROWS],
  ).first[:, 0]
  assert np.ptp(expected) > 1e-4
  for row, before, p_good in zip(rows, ROWS, expected, strict=True):
    assert row == before | {
      'verdict': 'Good' if p_good > 0.5 else 'Bad',
      'p_good': pytest.approx(p_good, abs=4e-5),
    }
  assert told['usage'] == {'questions': 11, 'shortened': 0}
  assert told['good'] == np.mean(expected > 0.5)
  assert (told['resumed_at'], told['unanswered']) == (0, 0)
  assert 'agreement' not in told
  # killed in the middle of the fifth line
  lines = (tmp_path / 'verdicts.jsonl').read_text().splitlines(True)
  torn = ''.join(lines[:4]) + lines[4][:-9]
  (tmp_path / 'verdicts.jsonl').write_text(torn)
  again, told = judge(config, tmp_path)
  assert told['usage']['questions'] == 11 + 7  # of both processes
  assert told['resumed_at'] == 4
  assert [row['id'] for row in again] == list(range(11))
  for row, before in zip(again, rows, strict=True):
    assert row['p_good'] == pytest.approx(before['p_good'], abs=4e-5)


def test_a_server_judges_every_line_and_labels_are_compared(
  tmp_path: pathlib.Path,
) -> None:
  """Of the votes on a, b, c, d 2, 2, 1 and 0 are Good; a and c were."""
  said = {'a': 'GG', 'b': 'GG', 'c': 'BG', 'd': 'BB', 'e': '--'}
  times: dict[str, int] = dict.fromkeys(said, 0)

  def handler(request: dict[str, Any], n: int) -> str | Fault:
    prompt = prompt_of(request)
    reply = quoted(prompt)
    letter = said[reply][times[reply]]
    times[reply] += 1
    if letter == '-':
      return Fault(status=400)
    return verdict(prompt, {'G': 'Good', 'B': 'Bad'}[letter], reason=letter)

  labels = {'a': 1, 'b': 0, 'c': 1, 'd': 0, 'e': 1}
  config = shipped(
    tmp_path,
    [{'prompt': 'x', 'response': r, 'label': y} for r, y in labels.items()],
  )
  with serving(handler) as server:
    config.judge.endpoint.update(
      url=server.url, model='m', prices=(1e5, 0.0), concurrency=1
    )
    config.judge.votes = 2
    rows, told = judge(config, tmp_path)
    assert len(server.requests) == 10  # none for lines that there are not
  found = [(r['verdict'], r['p_good'], r.get('reason')) for r in rows]
  assert found == [
    ('Good', 1, 'G'),
    ('Good', 1, 'G'),
    ('Bad', 0.5, 'B'),
    ('Bad', 0, 'B'),
    (None, None, None),
  ]
  assert (told['unanswered'], told['good']) == (1, 0.5)
  assert told['agreement'] == told['balanced_agreement'] == 0.5
  # a beats d and ties with b, c beats d alone
  assert told['auc'] == pytest.approx(2.5 / 4)
  assert told['length_only_auc'] == 0.5
  # of one prompt, so there are no others to tune a threshold on
  assert told['balanced_tuned'] is None
  assert told['auc_interval'] == [None, None]
  assert told['threshold'] == 0.25
  # all replies have one letter
  assert (told['matched_auc'], told['matched_pairs']) == (told['auc'], 4)
  assert told['usage']['unanswered'] == 2
  assert told['usage']['cost'] == 8


def test_agreement_is_of_each_side_and_needs_both_for_an_auc(
  tmp_path: pathlib.Path,
) -> None:
  def handler(request: dict[str, Any], n: int) -> str:
    return verdict(prompt_of(request), 'Good')

  with serving(handler) as server:
    for name, labels in (('both', [1, 1, 1, 0]), ('one', [1, 1, 1, 1])):
      workdir = tmp_path / name
      workdir.mkdir()
      rows = [
        {'prompt': 'x', 'response': f'{n}', 'label': y}
        for n, y in enumerate(labels)
      ]
      config = shipped(workdir, rows)
      config.judge.endpoint.update(url=server.url, model='m')
      _, told = judge(config, workdir)
      both = name == 'both'
      assert told['agreement'] == (0.75 if both else 1)
      assert told['balanced_agreement'] == (0.5 if both else 1)
      assert told['auc'] == (0.5 if both else None)


def test_no_answer_at_all_is_an_error_and_leaves_nothing(
  tmp_path: pathlib.Path,
) -> None:
  config = shipped(tmp_path, ROWS)
  config.judge.endpoint.update(
    url='http://127.0.0.1:9/v1', model='m', retries=0
  )
  with pytest.raises(ValueError, match='none of the 11 replies got a verdict'):
    pipeline.run('judge', config, tmp_path)
  assert not (tmp_path / 'verdicts.jsonl').exists()
  assert not (tmp_path / 'summary.json').exists()


def test_a_judge_that_stops_answering_ends_the_run(
  tmp_path: pathlib.Path,
) -> None:
  """What it has judged is kept, and the rest is asked for another time."""
  rows = [{'prompt': 'x', 'response': f'reply {n}'} for n in range(12)]
  config = shipped(tmp_path, rows)
  config.batch_size, mended = 2, False

  def handler(request: dict[str, Any], n: int) -> str:
    prompt = prompt_of(request)
    good = mended or quoted(prompt) in ('reply 0', 'reply 1', 'reply 2')
    return verdict(prompt, 'Good') if good else 'I like it.\x1b[2J'

  with serving(handler) as server:
    config.judge.endpoint.update(url=server.url, model='m')
    with pytest.raises(
      NoAnswers,
      match='^judge: no reply of a batch got a verdict 3 times in a row: an '
      r'answer was refused: no JSON object with the id of the question: I like '
      r'it\.\[2J\. Once',
    ):
      judge(config, tmp_path)
    assert len(datasets.read_jsonl(tmp_path / 'verdicts.jsonl')) == 3
    asked = len(server.requests)
    assert asked == 2 + (1 + 2) + 3 * 4
    mended = True
    found, told = judge(config, tmp_path)
  assert [row['verdict'] for row in found] == ['Good'] * 12
  assert told['resumed_at'] == 3 and told['unanswered'] == 0
  assert told['usage']['requests'] == asked + 9
  assert told['usage']['questions'] == 10 + 9


@pytest.mark.parametrize('status', [401, 403, 404])
def test_a_key_that_is_refused_ends_the_run_at_once(
  status: int, tmp_path: pathlib.Path
) -> None:
  config = shipped(tmp_path, ROWS)
  config.batch_size = 2
  fault = Fault('{"error": {"message": "wrong key"}}', status)
  with serving(lambda request, n: fault) as server:
    config.judge.endpoint.update(url=server.url, model='m')
    with pytest.raises(NoAnswers, match=f'status {status}, .*wrong key'):
      judge(config, tmp_path)
    assert len(server.requests) == 2
  assert not (tmp_path / 'verdicts.jsonl').exists()


@pytest.mark.parametrize('system', ['Be just.', 'Be kind.'])
def test_a_system_message_comes_before_the_question(
  system: str, tmp_path: pathlib.Path
) -> None:
  def handler(request: dict[str, Any], n: int) -> str:
    first, second = request['messages']
    assert first == {'role': 'system', 'content': system}
    return verdict(second['content'], 'Good')

  config = shipped(tmp_path, ROWS[:1])
  with serving(handler) as server:
    config.judge.endpoint.update(url=server.url, model='m')
    config.judge.system = system
    [row], _ = judge(config, tmp_path)
  assert row['verdict'] == 'Good'


def test_a_cached_verdict_is_found_by_any_run(tmp_path: pathlib.Path) -> None:
  with serving(
    lambda request, n: verdict(prompt_of(request), 'Good')
  ) as server:
    for name in ('one', 'other'):
      workdir = tmp_path / name
      workdir.mkdir()
      config = shipped(workdir, ROWS[:3])
      config.judge.endpoint.update(url=server.url, model='m')
      config.judge.cache = str(tmp_path / 'cache.sqlite')
      judge(config, workdir)
      written = [*workdir.glob('*'), tmp_path / 'cache.sqlite']
      secret = (tmp_path / 'cache.sqlite.secret').read_bytes()
      assert not any(secret in file.read_bytes() for file in written)
    assert len(server.requests) == 3


def test_a_long_reply_is_shown_to_its_end_unless_a_limit_is_set(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  rows = [
    {'prompt': 'x', 'response': f'{"wave " * 2000} end {n}'} for n in '12'
  ]

  def handler(request: dict[str, Any], n: int) -> str:
    whole = quoted(prompt_of(request))[-5:] in ('end 1', 'end 2')
    return verdict(prompt_of(request), 'Good' if whole else 'Bad')

  with serving(handler) as server:
    for limit, told_verdict in ((0, 'Good'), (9000, 'Bad')):
      workdir = tmp_path / told_verdict
      workdir.mkdir()
      config = shipped(workdir, rows)
      config.judge.endpoint.update(url=server.url, model='m')
      config.judge.max_reply_characters = limit
      found, told = judge(config, workdir)
      assert [row['verdict'] for row in found] == [told_verdict] * 2
      assert told['usage']['shortened'] == 2 * bool(limit)
  said = capsys.readouterr().out
  assert (
    said.count('judge: the ends of 2 replies are not shown, up to 1006') == 1
  )


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'prompt': 'x'}, r'replies\.jsonl:2: response=None; expected a text'),
    ({'response': 'x'}, r'replies\.jsonl:2: no prompt in the fields'),
    ({'prompt': 1, 'response': 'x'}, 'prompt=1; expected a text'),
    (
      {'prompt': 'x', 'response': ['y']},
      r"response\[0\]='y'; expected a message",
    ),
  ],
)
def test_a_line_without_texts_is_named(
  row: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
  config = shipped(tmp_path, [ROWS[0], row])
  config.judge.endpoint.update(url='http://127.0.0.1:9/v1', model='m')
  with pytest.raises(ValueError, match=message):
    pipeline.run('judge', config, tmp_path)
  assert not (tmp_path / 'verdicts.jsonl').exists()


def test_what_cannot_begin_is_told(tmp_path: pathlib.Path) -> None:
  config = shipped(tmp_path, ROWS)
  with pytest.raises(ValueError, match=r'is configured: expected --config\.ju'):
    pipeline.run('judge', config, tmp_path)
  config.judge.endpoint.update(url='http://127.0.0.1:9/v1', model='m')
  (tmp_path / 'replies.jsonl').write_text('{"prompt": \n')
  with pytest.raises(ValueError, match=r'replies\.jsonl:1: not JSON'):
    pipeline.run('judge', config, tmp_path)
  (tmp_path / 'replies.jsonl').write_text('\n')
  with pytest.raises(ValueError, match='has no lines'):
    pipeline.run('judge', config, tmp_path)
  config.judge.principles = '@none'
  with pytest.raises(FileNotFoundError, match='@principles_writing_en'):
    pipeline.run('judge', config, tmp_path)
