"""Prompts and replies that a model's context does not hold are refused."""

import dataclasses
import json
import pathlib
import re
import shutil
from typing import Any

import jax
import numpy as np
import pipeline
import pytest
from ml_collections import ConfigDict

from rlcw.data.examples import Example
from rlcw.evaluation import heldout
from rlcw.models import chat, language_model
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import reward_model, text_scores
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.replies import ReplyJudge
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling import llm
from rlcw.tasks import export, generate, sft
from rlcw.tasks.grpo import run as grpo_run
from rlcw.tasks.grpo import step

CONTEXT = 64
FIELDS = (('stories', 'Write.'), ('songs', 'Write ' + 'a song ' * 20))
BRIEFS = [Brief(id, prompt, (), ()) for id, prompt in FIELDS]
WRONG = (
  rf'1 of 2 .*context of {CONTEXT} tokens.*max_new_tokens=8: .*longest has'
)


@pytest.fixture(scope='module')
def short(
  tiny_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """The tiny model with a short context."""
  folder = tmp_path_factory.mktemp('short') / 'model'
  shutil.copytree(tiny_folder, folder)
  file = folder / 'config.json'
  config = json.loads(file.read_text()) | {'max_position_embeddings': CONTEXT}
  file.write_text(json.dumps(config))
  return folder


@pytest.fixture(scope='module')
def model(short: pathlib.Path) -> LanguageModel:
  return language_model.load(short, make_mesh(devices=jax.devices()[:1]))


def test_in_grpo_and_evaluate(model: LanguageModel) -> None:
  scorer: Any = None
  config = pipeline.shipped('grpo')
  config.max_new_tokens = 8
  with pytest.raises(ValueError, match=WRONG + '.*too long: brief songs'):
    step.make_next_batch(model, scorer, {}, BRIEFS, config, pathlib.Path())
  with pytest.raises(ValueError, match=WRONG + '.*too long: brief songs'):
    heldout.answer(model, scorer, BRIEFS, config, config)


def test_a_reward_model_that_cannot_read_the_replies_is_refused_at_once(
  model: LanguageModel,
) -> None:
  head = reward_model.Head(np.zeros(32, np.float32), np.float32(0))
  reward = reward_model.RewardModel(head, 'mean', model, shared=False)
  prompts = {'a': 'Write.', 'b': 'Write.'}
  room = CONTEXT - len(model.chat.encode_prompt('Write.'))
  text_scores.check_context(reward, prompts, room)
  with pytest.raises(ValueError, match='2 of 2 .*tokens of a reply'):
    text_scores.check_context(reward, prompts, room + 1)
  # A reply that takes more tokens than it was sampled in is cut.
  scores = text_scores.score(
    reward, ['Write.'], [['a song ' * 30]], np.array([[True]]), (0, room)
  )
  assert scores.shape == (1, 1)


def test_in_a_judge_s_briefs_before_training(model: LanguageModel) -> None:
  config = pipeline.shipped('grpo')
  long = Brief('long', 'Write ' + 'a song ' * 60, (), ())
  roomy = dataclasses.replace(model.chat, context=1 << 12)
  for format, words in ((roomy, ''), (model.chat, 'brief long: ')):
    judge = LogprobJudge(model._replace(chat=format), 1)
    asked = ReplyJudge(judge, config)
    if not words:
      asked.check_context([long])
    else:
      with pytest.raises(ValueError, match=words):
        asked.check_context([long])


def test_briefs_of_one_id_are_told_apart(model: LanguageModel) -> None:
  config = pipeline.shipped('grpo')
  config.max_new_tokens = 8
  same = [Brief('same', brief.prompt, (), ()) for brief in BRIEFS[::-1]]
  with pytest.raises(ValueError, match='too long: brief same$'):
    heldout.encode(same, model.chat, config)
  with pytest.raises(ValueError, match=r'too long: brief same \(no. 2\)'):
    heldout.encode(same[::-1], model.chat, config)


def test_in_held_out_briefs_before_training(
  short: pathlib.Path, tmp_path: pathlib.Path, model: LanguageModel
) -> None:
  file = tmp_path / 'briefs.jsonl'
  lines = [
    {'id': id, 'prompt': prompt, 'split': split}
    for (id, prompt), split in zip(FIELDS, ('train', 'heldout'), strict=True)
  ]
  file.write_text('\n'.join(map(json.dumps, lines)))
  config = pipeline.tiny_config('grpo', short, tmp_path)
  config.briefs, config.max_new_tokens = str(file), 8
  with pytest.raises(ValueError, match='1 of 1 .*too long: brief songs'):
    grpo_run.load_training_briefs(config, '', model.chat, tmp_path)


def test_in_a_file_of_replies_by_line(
  short: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'replies.jsonl'
  replies = 'A song.', 'a song ' * 30
  lines = [{'prompt': 'Write.', 'response': reply} for reply in replies]
  file.write_text('\n'.join(map(json.dumps, lines)))
  config = pipeline.shipped('judge')
  config.update({'input': str(file), 'batch_size': 8})
  config.judge.model = str(short)
  with pytest.raises(ValueError, match=r'replies\.jsonl:1: .*context'):
    pipeline.run('judge', config, tmp_path / 'run')


def test_of_a_reply_to_be_scored(model: LanguageModel) -> None:
  head = reward_model.Head(np.zeros(32, np.float32), np.float32(0))
  reward = reward_model.RewardModel(head, 'mean', model, shared=False)
  text_scores.check_reply(reward, 'Write.', 'A song.')
  with pytest.raises(ValueError, match='1 of 1 .*max_reply_tokens='):
    text_scores.check_reply(reward, 'Write.', 'a song ' * 30)
  # It is cut where the model was trained on shorter ones.
  short = reward._replace(limit=8)
  text_scores.check_reply(short, 'Write.', 'a song ' * 30)


def test_in_generate(short: pathlib.Path, tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'briefs.jsonl'
  lines = [json.dumps({'prompt': prompt}) for _, prompt in FIELDS]
  file.write_text('\n'.join(lines))
  config = pipeline.tiny_config('generate', short, tmp_path)
  config.input, config.max_new_tokens = str(file), 8
  with pytest.raises(ValueError, match=WRONG + '.*briefs.jsonl:2'):
    generate.run(config, tmp_path)


def test_in_sft(model: LanguageModel) -> None:
  examples = [Example('Write.', text) for text in ('A', 'B ' * 60)]
  with pytest.raises(ValueError, match=f'context of {CONTEXT} tokens.*reply'):
    sft.pack_rows(sft.encode(examples, model.chat), 256, seed=0)
  # a row may be longer than the context, as it holds several examples
  sft.pack_rows(sft.encode(examples[:1] * 9, model.chat), 256, seed=0)


def test_in_scores_and_judgements(model: LanguageModel) -> None:
  head = reward_model.Head(np.zeros(32, np.float32), np.float32(0))
  reward = reward_model.RewardModel(head, 'mean', model, shared=False)
  with pytest.raises(ValueError, match='max_reply_tokens='):
    text_scores.score(
      reward, ['Write.'], [['a song ' * 30]], np.array([[True]])
    )
  settings = ConfigDict(llm.llm_settings(max_new_tokens=8))
  local = llm.LocalModel(model, settings)
  # Like a server, which answers the others and says why.
  replies = local.ask([FIELDS[1][1], 'Write.'])
  assert replies[0] is None and replies[1]
  assert local.usage()['failed'] == 1
  assert re.search('1 of 1 .*max_new_tokens=8', local.trouble().text)
  assert local.trouble().refused and not local.trouble().lasting
  # No prompt fits beside such replies.
  settings.max_new_tokens = CONTEXT
  with pytest.raises(ValueError, match=f'max_new_tokens={CONTEXT}'):
    llm.LocalModel(model, settings)
  judge = LogprobJudge(model, 1)
  question = factory.make_question(
    'judge', ConfigDict(factory.judge_settings())
  )
  with pytest.raises(ValueError, match='max_reply_characters limits'):
    questions.judge(judge, question, ['Write.'], [['a song ' * 30]])


def test_what_ends_a_reply_survives_an_export(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder, out = tmp_path / 'model', tmp_path / 'out'
  shutil.copytree(tiny_folder, folder)
  out.mkdir()
  # The code that it names is not exported, and never run.
  coded = json.loads((folder / 'config.json').read_text())
  coded |= {'auto_map': {'AutoConfig': 'configuration_x.X'}}
  (folder / 'config.json').write_text(json.dumps(coded))
  given = {'eos_token_id': [7, 5], 'temperature': 0.6}
  (folder / 'generation_config.json').write_text(json.dumps(given))
  before = chat.load(folder)
  assert before.eos_ids == (1, 5, 7)
  config = pipeline.tiny_config('export', folder, tmp_path)
  config.model = str(folder)
  export.write_header(config, out, before, export._CAUSAL)
  before.tokenizer.save_pretrained(out)
  after = chat.load(out)
  assert after.eos_ids == before.eos_ids and after.end == before.end
  written = json.loads((out / 'generation_config.json').read_text())
  assert written == given | {'eos_token_id': [1, 5, 7]}
  assert 'auto_map' not in json.loads((out / 'config.json').read_text())


def test_a_model_s_context_is_that_of_its_files(model: LanguageModel) -> None:
  assert model.chat.context == model.config.context == CONTEXT
  endless = dataclasses.replace(model.chat, context=None)
  endless.check_context({'a': 10**6}, 10**6)
