"""Task `verify`: a line of verdicts for each line, or one error and no file."""

import json
import pathlib
from typing import Any

import numpy as np
import pipeline
import pytest
import stub_judges
from server import Fault, completion, prompt_of, serving

from rlcw.data import datasets
from rlcw.rewards.judge import factory, questions

Record = dict[str, Any]
NO_COMMA = {'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}]}
RECORDS: list[Record] = [
  {
    'key': 7,
    'prompt': 'A toast.',
    'response': 'Here, my friends:\nCheers',
    'instruction_id_list': ['punctuation:no_comma', 'length:words'],
    # other rules' arguments as null, as in IFEval's own files
    'kwargs': [{'num_words': None}, {'at_most': 3, 'num_words': None}],
  },
  {'prompt': '祝酒。', 'response': '风，雨', **NO_COMMA},
  {'prompt': 'None.', 'response': '', **NO_COMMA},
]


def write(path: pathlib.Path, records: list[Any]) -> pathlib.Path:
  path.write_text('\n'.join(map(json.dumps, records)) + '\n')
  return path


def verify(
  folder: pathlib.Path, records: list[Any], **settings: Any
) -> dict[str, Any]:
  config = pipeline.shipped('verify')
  config.input = str(write(folder / 'replies.jsonl', records))
  config.update(settings)
  return pipeline.run('verify', config, folder)


def test_every_line_has_its_verdicts_in_order(tmp_path: pathlib.Path) -> None:
  summary = verify(tmp_path, RECORDS)
  lines = datasets.read_jsonl(tmp_path / 'verdicts.jsonl')
  for record, line in zip(RECORDS, lines, strict=True):
    assert {**record, **line} == line
    assert set(line) - set(record) == {'strict', 'loose'}
  assert [line['strict'] for line in lines] == [
    {
      'follow_instruction_list': [False, False],
      'follow_all_instructions': False,
    },
    {'follow_instruction_list': [False], 'follow_all_instructions': False},
    {'follow_instruction_list': [False], 'follow_all_instructions': False},
  ]
  assert lines[0]['loose'] == {
    'follow_instruction_list': [True, True],
    'follow_all_instructions': True,
  }
  assert json.loads((tmp_path / 'summary.json').read_text()) == summary
  common = {'wall_seconds', 'peak_memory_gib', 'hardware', 'notices'}
  assert common < summary.keys()
  assert {k: v for k, v in summary.items() if k not in common} == {
    'mode': 'reward',
    'prompts': 3,
    'instructions': 4,
    'prompt_strict': 0,
    'instruction_strict': 0,
    'prompt_loose': 1 / 3,
    'instruction_loose': 2 / 4,
    'by_instruction': {
      'length:words': {'count': 1, 'strict': 0, 'loose': 1},
      'punctuation:no_comma': {'count': 3, 'strict': 0, 'loose': 1 / 3},
    },
  }


def test_the_benchmark_has_its_own_verdicts(tmp_path: pathlib.Path) -> None:
  summary = verify(tmp_path, RECORDS, mode='benchmark')
  # ，is no comma to IFEval
  assert summary['prompt_strict'] == 1 / 3
  assert summary['instruction_strict'] == 1 / 4


def test_ifbench_is_read_with_a_rule_that_cannot_be_checked(
  tmp_path: pathlib.Path,
) -> None:
  # The numbers are floats, and other rules' arguments null.
  ids = ['count:numbers', 'words:start_verb']
  kwargs = [{'N': 2.0, 'keyword': None}, {'N': None}]
  records = [
    {'response': reply, 'instruction_id_list': ids[:n], 'kwargs': kwargs[:n]}
    for reply, n in (('Sing 1, 2', 1), ('Sing 1, 2', 2), ('Sing 1', 2))
  ]
  summary = verify(tmp_path, records, mode='benchmark')
  # Of the first reply alone: two have a rule without a verdict.
  assert summary['prompt_strict'] == 1
  assert summary['instruction_strict'] == 2 / 3
  assert summary['notices'] == [
    'words:start_verb has no verdicts: it needs a part-of-speech tagger'
  ]
  lines = datasets.read_jsonl(tmp_path / 'verdicts.jsonl')
  told = [line['strict']['follow_all_instructions'] for line in lines]
  assert told == [True, None, False]
  with pytest.raises(ValueError, match='2 ids but 1 kwargs'):
    verify(tmp_path, [records[1] | {'kwargs': kwargs[:1]}])


def test_thoughts_are_no_part_of_a_reply(tmp_path: pathlib.Path) -> None:
  texts = (
    '<think>\nOh, well.\n</think>\n\nCheers',
    'Oh, well.</think>Cheers',
    'Cheers</think>Here, here',
    '<think>\nCheers',
  )
  records = [{'prompt': 'A toast.', 'response': t, **NO_COMMA} for t in texts]
  verify(tmp_path, records)
  lines = datasets.read_jsonl(tmp_path / 'verdicts.jsonl')
  kept = [line['strict']['follow_all_instructions'] for line in lines]
  assert kept == [True, True, False, False]  # the last one never ends
  assert [line['response'] for line in lines] == [*texts]
  # IFEval reads all of a response
  verify(tmp_path, records, mode='benchmark')
  lines = datasets.read_jsonl(tmp_path / 'verdicts.jsonl')
  kept = [line['strict']['follow_all_instructions'] for line in lines]
  assert kept == [False, False, False, True]


def test_the_numbers_are_printed(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
  verify(tmp_path, RECORDS)
  rows = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert ['prompt', 'level', '3', '0.00%', '33.33%'] in rows
  assert ['instruction', 'level', '4', '0.00%', '50.00%'] in rows
  assert ['punctuation:no_comma', '3', '0.00%', '33.33%'] in rows


def test_the_output_goes_where_it_is_asked_to(tmp_path: pathlib.Path) -> None:
  output = tmp_path / 'new' / 'out.jsonl'
  verify(tmp_path, RECORDS, output=str(output))
  assert len(datasets.read_jsonl(output)) == 3
  assert not (tmp_path / 'verdicts.jsonl').exists()


def test_a_reply_may_hold_any_text(tmp_path: pathlib.Path) -> None:
  replies = ['a\ud83d', 'a\x00\u2028\u202e', '😀' * 9, '"\\ud83d" \\']
  records = [{'response': reply, **NO_COMMA} for reply in replies]
  assert verify(tmp_path, records)['prompt_strict'] == 1
  lines = datasets.read_jsonl(tmp_path / 'verdicts.jsonl')
  assert [line['response'] for line in lines] == replies


def test_a_reply_without_rules_keeps_them_all(tmp_path: pathlib.Path) -> None:
  record = {'response': 'a', 'instruction_id_list': [], 'kwargs': []}
  summary = verify(tmp_path, [record])
  assert summary['prompt_strict'] == 1 and summary['instructions'] == 0


BAD: list[tuple[Any, list[str]]] = [
  ({'response': 'a', 'kwargs': []}, ['no field instruction_id_list']),
  ({'response': 3, **NO_COMMA}, ['response=3', 'a text']),
  (NO_COMMA, ['response=None', 'a text']),
  ({'responses': ['a', 'b'], **NO_COMMA}, ['responses', 'samples=1']),
  ({'response': 'a', **NO_COMMA, 'kwargs': None}, ['no field kwargs']),
  ({'response': 'a', **NO_COMMA, 'kwargs': ['a']}, ['kwargs', 'objects']),
  ({'response': 'a', **NO_COMMA, 'kwargs': []}, ['1 ids but 0 kwargs']),
  (
    {'response': 'a', **NO_COMMA, 'instruction_id_list': [['a']]},
    ['instruction_id_list', 'texts'],
  ),
  (
    {'response': 'a', **NO_COMMA, 'instruction_id_list': ['punctuation:none']},
    ["'punctuation:none'", 'did you mean', 'punctuation:no_comma'],
  ),
  (
    {'response': 'a', **NO_COMMA, 'kwargs': [{'commas': 0}]},
    ["'commas'", 'expected none'],
  ),
  (['a'], ['a JSON object']),
]


@pytest.mark.parametrize(('record', 'words'), BAD)
def test_a_line_that_cannot_be_checked_is_named(
  record: Any, words: list[str], tmp_path: pathlib.Path
) -> None:
  with pytest.raises(ValueError) as error:
    verify(tmp_path, [*RECORDS, record])
  for word in ['replies.jsonl:4: ', *words]:
    assert word in str(error.value)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'config.json',
    'replies.jsonl',
  ]


@pytest.mark.parametrize(
  'line', [b'{"response": ', b'\xff', b'[' * 100_000, b'9' * 5000]
)
def test_a_line_that_is_not_json_is_named_by_its_number(
  line: bytes, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'bad.jsonl'
  good = json.dumps(RECORDS[0]).encode()
  file.write_bytes(good + b'\n\n' + line + b'\n')
  config = pipeline.shipped('verify')
  config.input = str(file)
  with pytest.raises(ValueError, match=r'bad\.jsonl:3: not (JSON|UTF-8): '):
    pipeline.run('verify', config, tmp_path)
  assert not (tmp_path / 'verdicts.jsonl').exists()


def test_an_earlier_output_survives_an_error(tmp_path: pathlib.Path) -> None:
  verify(tmp_path, RECORDS)
  before = (tmp_path / 'verdicts.jsonl').read_text()
  with pytest.raises(ValueError):
    verify(tmp_path, [*RECORDS, {}])
  assert (tmp_path / 'verdicts.jsonl').read_text() == before


def test_an_empty_input_is_an_error(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match=r'replies\.jsonl has no lines'):
    verify(tmp_path, [])


def test_another_mode_is_an_error(tmp_path: pathlib.Path) -> None:
  with pytest.raises(ValueError, match=r"mode='x'; expected .*'benchmark'"):
    verify(tmp_path, RECORDS, mode='x')


def test_the_shipped_config_runs_from_the_command_line(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  file = write(tmp_path / 'replies.jsonl', [*RECORDS, {}])
  arguments = '--config=verify', f'--workdir={tmp_path / "run"}'
  status = pipeline.command(monkeypatch, *arguments, f'--config.input={file}')
  error = capsys.readouterr().err
  assert status == 1
  assert f'rlcw: {file}:4: response=None; expected a text' in error


def test_demands_are_put_to_the_judge(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """The panel passes gardens, and has nothing to say of toasts."""

  def probability(prompt: questions.Prompt) -> float:
    return np.nan if 'toast' in prompt.row else float('garden' in prompt.row)

  panel = stub_judges.Scripted(probability)
  monkeypatch.setattr(factory, 'make_judge', lambda *_: panel)
  demand: Record = {
    'prompt': 'A card.',
    'instruction_id_list': ['soft:demand', 'punctuation:no_comma'],
    'kwargs': [{'demand': 'Mention her garden.'}, {}],
  }
  replies = ['Her garden.', 'Her dog.', 'A toast.', 'A toast, and a garden.']
  asked = [demand | {'response': reply} for reply in replies]
  summary = verify(tmp_path, [RECORDS[1], *asked])
  lines = datasets.read_jsonl(tmp_path / 'verdicts.jsonl')[1:]
  assert [line['strict']['follow_instruction_list'] for line in lines] == [
    [True, True],
    [False, True],
    [None, True],
    [None, False],
  ]
  for name in ('strict', 'loose'):
    assert [line[name]['follow_all_instructions'] for line in lines] == [
      True,
      False,
      None,
      False,
    ]
  assert len(panel.asked) == 4
  # a reply with a missing verdict does not count, or its failure alone would
  assert summary['prompt_strict'] == 1 / 3
  assert summary['by_instruction']['soft:demand']['strict'] == 1 / 2


@pytest.mark.parametrize('status', [200, 401])
def test_a_judge_s_use_is_counted_and_its_silence_is_an_error(
  status: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  demand: Record = {
    'prompt': 'A card.',
    'response': 'Her garden.',
    'instruction_id_list': ['soft:demand'],
    'kwargs': [{'demand': 'Mention her garden.'}],
  }

  def handler(request: dict[str, Any], n: int) -> Fault:
    answer = stub_judges.verdict(prompt_of(request), 'Pass')
    return Fault(completion(answer), status=status)

  with serving(handler) as server:
    judge = {'endpoint': {'url': server.url, 'model': 'm'}}
    if status == 401:
      with pytest.raises(ValueError, match='no demand got a verdict: .*401'):
        verify(tmp_path, [demand], judge=judge)
      assert not (tmp_path / 'verdicts.jsonl').exists()
      return
    summary = verify(tmp_path, [demand], judge=judge)
  assert summary['prompt_strict'] == 1
  used = summary['usage']['judge']
  assert (used['questions'], used['requests']) == (1, 1)
  assert 'verify: judge: 1 questions, 1 requests' in capsys.readouterr().out


def test_demands_without_a_judge_are_an_error(tmp_path: pathlib.Path) -> None:
  record = {
    'response': 'x',
    'instruction_id_list': ['soft:demand'],
    'kwargs': [{'demand': 'Be kind.'}],
  }
  with pytest.raises(
    ValueError, match=r'jsonl:1 .*demand.* give judge\.model or'
  ):
    verify(tmp_path, [record])
  assert not (tmp_path / 'verdicts.jsonl').exists()
