"""Task `briefs`: a file that `grpo` reads, or one error and no file."""

import collections
import json
import pathlib
from typing import Any

import pipeline
import pytest
from ml_collections import ConfigDict

from rlcw.data import datasets
from rlcw.rewards.briefs import load_briefs
from rlcw.tasks import generate


def briefs(folder: pathlib.Path, **settings: Any) -> dict[str, Any]:
  config = pipeline.shipped('briefs')
  config.update({'count': 200, **settings})
  return pipeline.run('briefs', config, folder)


def test_what_is_written_is_read_and_told(tmp_path: pathlib.Path) -> None:
  summary = briefs(tmp_path, least_rules=2, most_rules=4)
  read = load_briefs(tmp_path / 'briefs.jsonl')
  assert len(read) == summary['briefs'] == 200
  assert {len(brief.kwargs) for brief in read} == {2, 3, 4}
  assert len({brief.id for brief in read}) == 200
  assert {brief.paraphrase for brief in read} == {0, 1, 2}
  rules = collections.Counter(
    rule for brief in read for rule in brief.instruction_id_list
  )
  assert summary['by_instruction'] == rules
  assert summary['refused_combinations'] > 0
  held_out = [brief for brief in read if brief.split == 'heldout']
  assert summary['heldout'] == len(held_out)
  assert json.loads((tmp_path / 'summary.json').read_text()) == summary
  for brief in read:
    assert brief.text.startswith(brief.prompt)


def test_themes_keep_their_split_and_are_read_in_their_language(
  tmp_path: pathlib.Path,
) -> None:
  themes = tmp_path / 'themes.jsonl'
  records = [
    {'prompt': '写一首生日祝福', 'split': 'test'},
    {'prompt': 'Write a toast.', 'split': 'train', 'language': '', 'given': 1},
  ]
  lines = [json.dumps(record) + '\n' for record in records]
  themes.write_text(''.join(lines), 'utf-8')
  briefs(tmp_path / 'run', input=str(themes), count=20)
  read = load_briefs(tmp_path / 'run' / 'briefs.jsonl')
  found = {(brief.prompt, brief.language, brief.split) for brief in read}
  assert found == {
    ('写一首生日祝福', 'zh', 'heldout'),
    ('Write a toast.', 'en', 'train'),
  }


def test_the_seed_alone_decides(tmp_path: pathlib.Path) -> None:
  texts = []
  for name, seed in (('a', 1), ('b', 1), ('c', 2)):
    output = tmp_path / name / 'out.jsonl'
    (tmp_path / name).mkdir()
    briefs(tmp_path / name, seed=seed, output=str(output))
    texts.append(output.read_text())
  assert texts[0] == texts[1] != texts[2]


def test_rules_are_drawn_from_those_asked_for(tmp_path: pathlib.Path) -> None:
  asked = 'length:characters', 'keywords:existence', 'style:no_cliche'
  summary = briefs(tmp_path, rules=asked, count=40)
  assert {*summary['by_instruction']} == {*asked}


@pytest.mark.parametrize(
  ('name', 'hint'),
  [
    ('style:no_clich', r"; did you mean 'style:no_cliche'"),
    ('first_word', r"; did you mean '\w+:nth_paragraph_first_word'"),
    ('zzz', '; expected some of length:words, '),
  ],
)
def test_a_rule_that_cannot_be_drawn_is_named(
  name: str, hint: str, tmp_path: pathlib.Path
) -> None:
  words = f"^rules: '{name}' is no rule that briefs draw{hint}"
  with pytest.raises(ValueError, match=words):
    briefs(tmp_path, rules=('length:words', name))
  assert not (tmp_path / 'briefs.jsonl').exists()


def test_a_brief_has_no_more_rules_than_there_are_to_draw_from(
  tmp_path: pathlib.Path,
) -> None:
  with pytest.raises(
    ValueError, match=r'^at least 3 rules of the 2 in `rules`'
  ):
    briefs(tmp_path, rules=('length:words', 'style:no_cliche'), least_rules=3)


def test_a_theme_that_is_not_legal_is_named_by_its_line(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'themes.jsonl'
  file.write_text('{"prompt": "A toast."}\n\n{"prompt": ""}\n')
  with pytest.raises(ValueError, match=r"themes\.jsonl:3: prompt='': expected"):
    briefs(tmp_path, input=str(file))
  assert not (tmp_path / 'briefs.jsonl').exists()


def test_an_empty_file_is_an_error(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'themes.jsonl'
  file.write_text('')
  with pytest.raises(ValueError, match='0 themes'):
    briefs(tmp_path, input=str(file))


def test_generate_asks_in_the_wording_of_the_brief(
  tmp_path: pathlib.Path,
) -> None:
  briefs(tmp_path)
  file = tmp_path / 'briefs.jsonl'
  config = ConfigDict({'input': str(file), 'write_rules': True})
  asked = [
    generate.prompt_of(record, config, line)
    for line, record in datasets.read_records(file)
  ]
  assert asked == [brief.text for brief in load_briefs(file)]
