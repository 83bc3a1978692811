"""Conversations of other tools train, answer and are scored."""

import csv
import gzip
import json
import pathlib
from typing import Any

import pipeline
import pytest
import transformers

from rlcw.data import datasets
from rlcw.rewards import briefs
from rlcw.runtime import console

pytestmark = pytest.mark.usefixtures('one_device')
SYSTEM = 'Write in one line.'


def say(role: str, content: str) -> dict[str, str]:
  return {'role': role, 'content': content}


def write(file: pathlib.Path, records: list[Any]) -> str:
  file.write_text('\n'.join(map(json.dumps, records)))
  return str(file)


def run(
  task: str, model: pathlib.Path, folder: pathlib.Path, **changes: Any
) -> dict[str, Any]:
  config = (
    pipeline.shipped('score')
    if task == 'score'
    else pipeline.tiny_config(task, model, folder)
  )
  config.update(changes)
  return pipeline.run(task, config, folder / task)


def test_sharegpt_in_csv_trains_a_model_that_answers_and_goes_out(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'chats.csv.gz'
  with gzip.open(file, 'wt', encoding='utf-8-sig', newline='') as text:
    rows = csv.writer(text)
    rows.writerow(['conversations', 'split'])
    for n in range(12):
      said = [('human', f'Write {n}.'), ('gpt', 'the sea')] * 2
      turns = [{'from': role, 'value': value} for role, value in said]
      rows.writerow([json.dumps(turns), 'train' if n else 'test'])
  run(
    'sft', apprentice, tmp_path, examples=str(file), system=SYSTEM, steps=2,
    rows_per_step=2, row_tokens=128,
  )  # fmt: skip
  prompts = tmp_path / 'prompts.jsonl'
  write(prompts, [{'messages': [say('system', 'Rhyme.'), say('user', 'Hi')]}])
  run(
    'generate', tmp_path / 'sft', tmp_path, input=str(prompts), batch_size=1,
    samples=1, max_new_tokens=4,
  )  # fmt: skip
  [line] = datasets.read_jsonl(tmp_path / 'generate' / 'replies.jsonl')
  assert line['prompt'] == [say('system', 'Rhyme.'), say('user', 'Hi')]
  assert isinstance(line['response'], str)
  # the model that goes out has the system message that it was trained with
  config = pipeline.tiny_config('export', tmp_path / 'sft', tmp_path)
  config.model = str(tmp_path / 'sft')
  pipeline.run('export', config, tmp_path / 'export')
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    tmp_path / 'export' / 'model'
  )
  plain, given = (
    tokenizer.apply_chat_template(
      said, tokenize=False, add_generation_prompt=True
    )
    for said in (
      [say('user', 'Hi')],
      [say('system', SYSTEM), say('user', 'Hi')],
    )
  )
  assert plain == given
  assert SYSTEM in plain


@pytest.mark.slow
def test_pairs_that_begin_with_their_prompt_train_a_reward_model(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  pairs = []
  for n in range(24):
    asked = [say('system', 'Rhyme.'), say('user', f'Write {n}.')]
    sides = {'chosen': 'the sea', 'rejected': 'tin tin tin'}
    pairs.append(
      {k: [*asked, say('assistant', text)] for k, text in sides.items()}
    )
  summary = run(
    'reward_model', apprentice, tmp_path, heldout=0.3,
    preferences=write(tmp_path / 'pairs.jsonl', pairs),
  )  # fmt: skip
  assert summary['heldout_accuracy'] == 1.0
  replies = [{'prompt': pairs[0]['chosen'][:2], 'response': 'the sea'}]
  run(
    'score', apprentice, tmp_path, run=str(tmp_path / 'reward_model'),
    input=write(tmp_path / 'replies.jsonl', replies), batch_size=1,
  )  # fmt: skip
  assert (tmp_path / 'score' / 'scores.jsonl').exists()


@pytest.mark.slow
def test_briefs_in_verl_s_layout_train_and_are_evaluated_with_their_system(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = tmp_path / 'briefs'
  folder.mkdir()
  for split, count in (('train', 8), ('test', 2)):
    write(
      folder / f'{split}.jsonl',
      [
        {
          'prompt': [say('user', f'Write {n} for the {split}.')],
          'instruction_id_list': ['length:words'],
          'kwargs': [{'at_most': 3, 'words': None}],
        }
        for n in range(count)
      ],
    )
  run(
    'grpo', apprentice, tmp_path, briefs=str(folder), system=SYSTEM, steps=2,
    writing='tiny_grpo:variety', prompts_per_step=2, microbatch_groups=2,
  )  # fmt: skip
  run('evaluate', apprentice, tmp_path, batch_size=2)
  lines = datasets.read_jsonl(tmp_path / 'evaluate' / 'evaluation.jsonl')
  assert len(lines) == 2
  assert all(line['prompt'].startswith(f'[system]\n{SYSTEM}') for line in lines)
  assert all('for the test' in line['prompt'] for line in lines)
  # other briefs, all of which count but those for training
  others = [{'prompt': 'Sing.'}, {'prompt': 'Hum.', 'split': 'train'}]
  config = pipeline.tiny_config('evaluate', apprentice, tmp_path)
  config.batch_size, config.system = 2, 'Be loud.'
  config.briefs = write(tmp_path / 'others.jsonl', others)
  pipeline.run('evaluate', config, tmp_path / 'again')
  [line] = datasets.read_jsonl(tmp_path / 'again' / 'evaluation.jsonl')
  assert line['prompt'] == '[system]\nBe loud.\n\n[user]\nSing.'


def test_a_run_without_held_out_briefs_says_so_and_others_can_be_given(
  tmp_path: pathlib.Path,
) -> None:
  record = {'prompt': 'Write.', 'split': 'train'}
  file = write(tmp_path / 'briefs.jsonl', [record])
  config = pipeline.shipped('grpo')
  config.briefs = file
  with pytest.raises(ValueError, match="no record has the split 'heldout'"):
    briefs.load_run_briefs(config, 'heldout')
  console.take_notices()
  # a run of an earlier version has trained on all briefs without a split
  del config['heldout']
  config.briefs = write(tmp_path / 'more.jsonl', [{'prompt': 'a'}] * 50)
  assert len(briefs.load_run_briefs(config, 'train')) == 50
