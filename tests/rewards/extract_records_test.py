"""Briefs of prompts: records, proposals of a model, and runs with them."""

import json
import pathlib
from typing import Any

import pipeline
import pytest
from ml_collections import ConfigDict
from server import serving

from rlcw.data import datasets
from rlcw.rewards.briefs import load_briefs, load_run_briefs, read_brief
from rlcw.rewards.extract import proposals, records
from rlcw.rewards.rules.registry import DEMAND
from rlcw.runtime import runs
from rlcw.sampling.outage import NoAnswers
from rlcw.sampling.prompts import Counts, Schema

PLAIN = 'Write a toast without commas. You must sound like a pirate.'
LINES: list[dict[str, Any]] = [
  {'prompt': PLAIN, 'split': 'train'},
  {
    'messages': [
      {'role': 'system', 'content': 'Be brief.'},
      {'role': 'user', 'content': '写一段祝福，不超过20个字。'},
    ],
    'split': 'heldout',
  },
  {
    'prompt': 'Use no commas.',
    'instruction_id_list': [],
    'kwargs': [],
    'split': 'train',
  },
]


def _write(folder: pathlib.Path) -> pathlib.Path:
  file = folder / 'prompts.jsonl'
  lines = (json.dumps(each, ensure_ascii=False) for each in LINES)
  file.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  return file


def _extract(folder: pathlib.Path, **settings: Any) -> dict[str, Any]:
  config = pipeline.shipped('extract')
  config.update({'input': str(_write(folder)), **settings})
  return pipeline.run('extract', config, folder)


def test_the_model_reads_each_rule_once_in_the_words_of_the_prompt() -> None:
  brief = read_brief(records.brief_of({'prompt': PLAIN}))
  assert brief.instruction_id_list == ('punctuation:no_comma',)
  assert brief.request == PLAIN
  assert brief.follow('Ahoy, all!') == [False]
  # As the shipped briefs are, where the prompt does not state its rules.
  unstated = {'instruction_id_list': ['punctuation:no_comma'], 'kwargs': [{}]}
  assert read_brief({'prompt': 'Hi.'} | unstated).request == (
    'Hi. Use no commas.'
  )


def test_a_record_that_lists_rules_is_kept() -> None:
  assert records.brief_of(LINES[2]) is LINES[2]


def test_a_sentence_without_a_rule_becomes_a_demand_if_wanted() -> None:
  brief = records.brief_of({'prompt': PLAIN}, demands=True)
  assert brief['instruction_id_list'][-1] == DEMAND
  assert brief['kwargs'][-1] == {'demand': 'You must sound like a pirate.'}
  assert brief['unread'] == []


def test_stated_is_true_or_false() -> None:
  with pytest.raises(ValueError, match="stated='yes'; expected true or false"):
    read_brief({'prompt': 'Hi.', 'stated': 'yes'})


def test_the_task_writes_briefs_and_counts_them(tmp_path: pathlib.Path) -> None:
  summary = _extract(tmp_path)
  chinese, plain, kept = sorted(
    load_briefs(tmp_path / 'briefs.jsonl'), key=lambda brief: brief.text[-2:]
  )[::-1]
  assert {plain.text, kept.text} >= {'Use no commas.'}
  assert chinese.instruction_id_list == ('length:words',)
  assert [message.role for message in chinese.earlier] == ['system']
  assert summary['prompts'] == 3
  assert (summary['had_rules'], summary['with_rules']) == (1, 2)
  assert summary['by_instruction'] == {
    'length:words': 1,
    'punctuation:no_comma': 1,
  }
  assert summary['unread_most_often'] == ['You must sound like a pirate.']
  [first, *_] = datasets.read_jsonl(tmp_path / 'briefs.jsonl')
  assert first['matched'] == [['without commas']]


def test_a_record_without_a_prompt_is_named(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'none.jsonl'
  file.write_text('{"prompt": "Hi"}\n{"text": "Hi"}\n')
  with pytest.raises(ValueError, match=r'none\.jsonl:2: no prompt'):
    _extract(tmp_path, input=str(file))
  assert not (tmp_path / 'briefs.jsonl').exists()


def test_a_run_extracts_once_and_reads_its_own_briefs(
  tmp_path: pathlib.Path,
) -> None:
  file = _write(tmp_path)
  workdir = tmp_path / 'run'
  summary = records.extract_once(str(file), workdir)
  config = ConfigDict(
    {'briefs': str(file), 'language': 'en', 'extract_rules': True}
  )
  [first, _] = load_run_briefs(config, 'train', workdir=workdir)
  assert first.instruction_id_list == ('punctuation:no_comma',)
  (workdir / 'config.json').write_text('{"task": "grpo"}')
  file.write_text('{"prompt": "Another."}\n')
  assert records.extract_once(str(file), workdir) == summary
  # The folder of its best parameters has no briefs of its own.
  best = load_run_briefs(config, 'train', workdir=workdir / runs.BEST)
  assert best[0] == first
  # Without the setting a run reads what it was given, as ever.
  config.extract_rules = False
  [other] = load_run_briefs(config, 'train', workdir=workdir)
  assert (other.text, other.instruction_id_list) == ('Another.', ())


def test_a_first_try_that_failed_leaves_no_briefs_to_the_next(
  tmp_path: pathlib.Path,
) -> None:
  file = _write(tmp_path)
  records.extract_once(str(file), tmp_path / 'run')
  file.write_text('{"prompt": "Another."}\n')
  assert records.extract_once(str(file), tmp_path / 'run')['prompts'] == 1
  [row] = datasets.read_jsonl(tmp_path / 'run' / 'briefs.jsonl')
  assert row['prompt'] == 'Another.'


def test_a_file_is_not_extracted_onto_itself(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'briefs.jsonl'
  file.write_text('{"prompt": "Be brief."}\n')
  with pytest.raises(ValueError, match='expected another --workdir'):
    records.extract_once(str(file), tmp_path)
  assert file.read_text() == '{"prompt": "Be brief."}\n'


def _proposal(quote: str, id: str, **kwargs: Any) -> dict[str, Any]:
  return {'quote': quote, 'instruction_id': id, 'kwargs': kwargs}


def test_each_proposal_of_a_model_is_validated() -> None:
  text = 'Write a toast without commas. Let it be a three-liner.'
  answer = [
    _proposal('a three-liner', 'length:lines', at_least=3, at_most=3),
    _proposal('without commas', 'punctuation:no_comma'),
    _proposal('in French', 'language:response_language', language='fr'),
    _proposal('a three-liner', 'length:lines', lines=3),
    _proposal('a three-liner', 'detectable_format:json_format'),
  ]
  asked = []

  def asking(schema: Schema) -> Any:
    assert 'Proposal' in json.dumps(schema.model_json_schema())

    def ask(prompts: Any) -> list[str]:
      asked.extend(prompts)
      id = prompts[0].rpartition('{"id": "')[2][:16]
      return [json.dumps({'id': id, 'rules': answer})]

    return ask

  counts = Counts()
  [rules] = proposals.propose(asking, [text], b'key', counts)
  assert [rule.instruction_id for rule in rules] == ['length:lines']
  assert [text[a:b] for a, b in rules[0].spans] == ['a three-liner']
  assert dict(counts) == {
    'questions': 1,
    'repaired': 0,
    'unanswered': 0,
    'proposed': 5,
    'accepted': 1,
    'known': 1,
    'unquoted': 1,
    'invalid': 1,
    'contradictory': 1,
  }
  assert f'> {text}' in asked[0]


def test_a_prompt_without_an_answer_has_no_proposals() -> None:
  counts = Counts()
  assert proposals.propose(
    lambda _: lambda prompts: [None for _ in prompts], ['写诗。'], b'', counts
  ) == [[]]
  assert counts['unanswered'] == 1


def test_a_model_whose_answers_are_all_refused_is_named_with_one(
  tmp_path: pathlib.Path,
) -> None:
  with serving(lambda request, n: 'No rules here.') as server:
    endpoint = {'url': server.url, 'model': 'm'}
    with pytest.raises(
      NoAnswers,
      match='no prompt got an answer.*an answer was refused.*No rules here',
    ):
      _extract(tmp_path, agent={'endpoint': endpoint})
