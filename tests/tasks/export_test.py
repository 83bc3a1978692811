"""Trained with adapters, exported, and read by those who will serve it."""

import functools
import json
import pathlib
import shutil
from typing import Any

import chat_formats
import checkpoints
import jax
import numpy as np
import peft
import pipeline
import pytest
import torch
import transformers
from cases import quick
from safetensors.numpy import load_file

from rlcw.data import datasets
from rlcw.data.preferences import load_preferences
from rlcw.models import hub, language_model, lora, tokenizer, weights
from rlcw.models.chat import ChatFormat
from rlcw.models.decoder import Decoder, head_weight
from rlcw.rewards import reward_model, text_scores
from rlcw.runtime import files
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks import export as export_task

TOKEN_PxL = np.random.default_rng(0).integers(2, 300, (2, 24))


def mesh() -> Any:
  return make_mesh(devices=jax.devices()[:1])


@pytest.fixture(scope='module')
def runs(
  tiny_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """A reward model and a policy, adapters of both trained."""
  folder = tmp_path_factory.mktemp('runs')
  pairs = pipeline.few_pairs(folder)
  for task in ('reward_model', 'sft'):
    config = pipeline.tiny_config(task, tiny_folder, folder)
    config.train = 'lora'
    if task == 'reward_model':
      config.pooling, config.preferences = 'last', pairs
    else:
      config.examples, config.steps, config.row_tokens = pairs, 3, 256
    with pipeline.one_device():
      pipeline.run(task, config, folder / task)
  return folder


def export(
  model: pathlib.Path, workdir: pathlib.Path, **settings: Any
) -> pathlib.Path:
  config = pipeline.tiny_config('export', model, workdir)
  config.model = str(model)
  config.update(settings)
  pipeline.run('export', config, workdir)
  return workdir / 'model'


def ours(model: language_model.LanguageModel) -> np.ndarray:
  hidden, _ = jax.jit(Decoder(model.config).apply)(
    {'params': model.params}, TOKEN_PxL[:, None]
  )
  return np.asarray(hidden[:, 0] @ head_weight(model.params).T)


def theirs(model: Any) -> np.ndarray:
  with torch.no_grad():
    return model.eval()(torch.from_numpy(TOKEN_PxL)).logits.numpy()


def test_a_policy_goes_out_to_transformers(
  runs: pathlib.Path, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = export(runs / 'sft', tmp_path)
  served = transformers.AutoModelForCausalLM.from_pretrained(folder)
  trained = ours(language_model.load(runs / 'sft', mesh()))
  assert np.abs(trained - theirs(served)).max() <= 1e-4
  start = ours(language_model.load(tiny_folder, mesh()))
  assert np.abs(trained - start).max() > 1e-3  # it did learn something
  text = transformers.AutoTokenizer.from_pretrained(folder)
  before = tokenizer.load(tiny_folder)
  prompts = [ChatFormat(t).encode_prompt('A letter') for t in (text, before)]
  assert prompts[0] == prompts[1]
  assert served.generation_config.eos_token_id == [1]


def test_adapters_go_out_to_peft(
  runs: pathlib.Path, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = export(runs / 'sft', tmp_path, adapters=True)
  base = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
  served = peft.PeftModel.from_pretrained(base, folder)
  trained = ours(language_model.load(runs / 'sft', mesh()))
  assert np.abs(trained - theirs(served)).max() <= 1e-4


@pytest.mark.parametrize('family', quick(['Gemma3', 'Gemma4'], 'Gemma3'))
def test_the_text_part_of_a_multimodal_model_goes_out(
  family: str, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base, workdir = tmp_path / 'base', tmp_path / 'out'
  whole = checkpoints.multimodal(family, vocab_size=300)
  whole.save_pretrained(base)
  for file in tiny_folder.glob('*token*'):
    shutil.copy(file, base)
  workdir.mkdir()
  folder = export(base, workdir)
  served = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation='eager'
  )
  assert type(served).__name__ == f'{family}ForCausalLM'
  expected = theirs(whole)
  assert np.abs(expected).max() > 1
  np.testing.assert_allclose(theirs(served), expected, atol=1e-5)
  model = language_model.load(folder, mesh())
  checkpoints.assert_holds(
    (model.config, model.params), load_file(folder / 'model.safetensors')
  )
  # adapters of it go out beside its text part, which `peft` could not find
  assert export_task.peft_base(str(base)) == {}


@pytest.mark.parametrize('start', ['folder', 'gguf', 'run'])
def test_peft_loads_the_base_that_adapters_name(
  start: str,
  runs: pathlib.Path,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  workdir = tmp_path / 'run'
  shutil.copytree(runs / 'sft', workdir)
  # the same adapters, as if they had been trained on another base
  settings = json.loads((workdir / 'config.json').read_text())
  if start == 'gguf':
    llama = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    path = checkpoints.write_gguf(tmp_path / 'a.gguf', llama)
    settings['model'] = str(path)
    # the file has weights alone
    chat = language_model.load(tiny_folder, mesh()).chat
    monkeypatch.setattr('rlcw.models.chat.load', lambda *_: chat)
  elif start == 'run':
    settings['model'] = str(runs / 'sft')
  else:
    monkeypatch.chdir(tiny_folder.parent)
    settings['model'] = tiny_folder.name
  files.write_json(workdir / 'config.json', settings)
  folder = export(workdir, tmp_path / 'export', adapters=True)
  named = json.loads((folder / 'adapter_config.json').read_text())
  base = pathlib.Path(named['base_model_name_or_path'])
  assert base == ((folder / 'base') if start != 'folder' else tiny_folder)
  trained = ours(language_model.load(workdir, mesh()))
  monkeypatch.chdir('/')
  served = peft.PeftModel.from_pretrained(
    transformers.AutoModelForCausalLM.from_pretrained(base), folder
  )
  assert np.abs(trained - theirs(served)).max() <= 1e-4
  transformers.AutoTokenizer.from_pretrained(base)


def test_a_revision_on_the_hub_stays_one(
  tiny_folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(hub, 'fetch', lambda _: tiny_folder)
  assert export_task.peft_base('org/name@v2') == {
    'base_model_name_or_path': 'org/name',
    'revision': 'v2',
  }
  assert export_task.peft_base('org/name') == {
    'base_model_name_or_path': 'org/name'
  }


def test_a_reward_model_goes_out_and_comes_back(
  runs: pathlib.Path, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = language_model.load(tiny_folder, mesh())
  reward = reward_model.load(str(runs / 'reward_model'), base)
  assert not reward.shared
  folder = export(runs / 'reward_model', tmp_path)
  served = transformers.AutoModelForSequenceClassification.from_pretrained(
    folder
  ).eval()
  assert served.config.num_labels == 1
  again = reward_model.load(str(folder), base)
  assert again.floor == reward.floor < 0  # of blank replies
  pairs = load_preferences('@preferences.jsonl', split='heldout')[:4]
  prompts = [pair.prompt for pair in pairs]
  replies = [[pair.chosen, pair.rejected] for pair in pairs]
  finished = np.array([[True, True], [True, False], [False, True], [True] * 2])
  scores = text_scores.score(reward, prompts, replies, finished)
  np.testing.assert_allclose(
    text_scores.score(again, prompts, replies, finished),
    scores,
    atol=1e-4,
  )
  text = base.tokenizer
  for p, g in np.ndindex(4, 2):
    ids = ChatFormat(text).encode_prompt(prompts[p])
    ids += tokenizer.encode(text, replies[p][g])
    if finished[p, g]:
      # the newline after <|im_end|>, which is read last, included
      messages = [('user', prompts[p]), ('assistant', replies[p][g])]
      ids = text.apply_chat_template(
        [{'role': role, 'content': each} for role, each in messages],
        return_dict=False,
      )
    with torch.no_grad():
      logit = float(served(torch.tensor([ids])).logits)
    assert logit == pytest.approx(scores[p, g], abs=1e-4)


@pytest.mark.parametrize(
  ('family', 'before', 'after'),
  [
    ('chatml-base', '<|endoftext|>', '<|endoftext|>'),  # its EOS ends no reply
    ('chatml', '<|im_end|>', '<|im_start|>'),
    ('mistral', '</s>', '<s>'),
    ('llama3', None, '<|begin_of_text|>'),
    ('base', '<|endoftext|>', None),  # it has no other
  ],
)
def test_a_classifier_is_padded_by_what_ends_no_reply(
  family: str, before: str | None, after: str | None
) -> None:
  own = chat_formats.of_family(family)
  own.pad_token = before
  found = export_task.padding(ChatFormat(own))
  assert found == (after and own.convert_tokens_to_ids(after))


@pytest.mark.slow
def test_an_exported_reward_model_trains_a_policy(
  runs: pathlib.Path, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = export(runs / 'reward_model', tmp_path / 'export')
  config = pipeline.tiny_config('grpo', tiny_folder, runs)
  config.reward_model, config.steps = str(folder), 3
  config.checkpoint_every = 3  # the first save compiles a few copies
  pipeline.run('grpo', config, tmp_path / 'grpo')
  rows = datasets.read_jsonl(tmp_path / 'grpo' / 'metrics.jsonl')
  assert all(np.isfinite(r['writing']) and r['writing_std'] > 0 for r in rows)
  # at most another width of the rows that the reward model reads
  assert rows[2]['compilations'] - rows[0]['compilations'] <= 1


@pytest.mark.slow
def test_a_reward_model_may_train_its_whole_decoder(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = pipeline.tiny_config('reward_model', tiny_folder, tmp_path)
  config.train, config.preferences = 'all', pipeline.few_pairs(tmp_path)
  pipeline.run('reward_model', config, tmp_path / 'rm')
  base = language_model.load(tiny_folder, mesh())
  reward = reward_model.load(str(tmp_path / 'rm'), base)
  assert not reward.shared and reward.decoder.config.lora is None
  moved = [
    float(np.abs(a - b).max())
    for a, b in zip(
      jax.tree.leaves(reward.decoder.params),
      jax.tree.leaves(base.params),
      strict=True,
    )
  ]
  assert min(moved) > 0
  pairs = load_preferences(config.preferences, split='train')
  scores = text_scores.score(
    reward,
    [pair.prompt for pair in pairs],
    [[pair.chosen, pair.rejected] for pair in pairs],
    np.ones((len(pairs), 2), bool),
  )
  told = json.loads((tmp_path / 'rm' / 'summary.json').read_text())
  right = float(np.mean(scores[:, 0] > scores[:, 1]))
  assert right == pytest.approx(told['train_accuracy'])


def test_a_reward_model_that_reads_the_mean_cannot_go_out(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = pipeline.tiny_config('reward_model', tiny_folder, tmp_path)
  config.preferences = pipeline.few_pairs(tmp_path)
  with pipeline.one_device():
    pipeline.run('reward_model', config, tmp_path / 'rm')
  with pytest.raises(ValueError, match="pooling='mean'.*pooling='last'"):
    export(tmp_path / 'rm', tmp_path / 'export')
  with pytest.raises(ValueError, match='is a reward model, which writes no'):
    language_model.load(tmp_path / 'rm', mesh())


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize(
  'family', ['llama', 'llama3', 'qwen2', 'qwen3', 'gemma3']
)
def test_in_out_in_is_the_identity(
  family: str,
  dtype: str,
  make_model: Any,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  model = make_model(family).to(getattr(torch, dtype))
  first, second = tmp_path / 'first', tmp_path / 'second'
  model.save_pretrained(first)
  tokenizer.load(tiny_folder).save_pretrained(first)
  folder = export(first, second, dtype=dtype)
  before = load_file(first / 'model.safetensors')
  after = load_file(folder / 'model.safetensors')
  if model.config.tie_word_embeddings:
    before.pop('lm_head.weight', None)
  assert before.keys() == after.keys()
  for name, tensor in before.items():
    assert tensor.dtype == after[name].dtype
    assert tensor.tobytes() == after[name].tobytes(), name
  logits = [
    theirs(
      transformers.AutoModelForCausalLM.from_pretrained(
        path, attn_implementation='eager', dtype=torch.float32
      )
    )
    for path in (first, folder)
  ]
  assert np.array_equal(*logits)


def test_large_models_go_out_in_parts_with_an_index(
  tiny: Any, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config, params = tiny
  weights.save(config, params, tmp_path, 'float32', max_shard_bytes=20_000)
  assert len(list(tmp_path.glob('model-*-of-*.safetensors'))) > 3
  header = (tiny_folder / 'config.json').read_text()
  (tmp_path / 'config.json').write_text(header)
  _, again = weights.load(tmp_path)
  jax.tree.map(np.testing.assert_array_equal, params, again)


def test_adapters_are_merged_into_an_export_in_parts(
  runs: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  small = functools.partial(weights.save, max_shard_bytes=20_000)
  monkeypatch.setattr(weights, 'save', small)
  config = pipeline.tiny_config('export', runs / 'sft', tmp_path)
  config.model = str(runs / 'sft')
  told = pipeline.run('export', config, tmp_path)
  assert len(told['files']) > 3
  served = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'model')
  trained = language_model.load(runs / 'sft', mesh())
  kernel_LxOxI = np.asarray(trained.params['blocks']['query']['kernel'])
  for layer, block in enumerate(served.model.layers):
    found = block.self_attn.q_proj.weight.detach().numpy()
    np.testing.assert_array_equal(found, kernel_LxOxI[layer])


def test_settings_that_make_no_sense(
  runs: pathlib.Path, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  with pytest.raises(ValueError, match='expected a run .* with train=lora'):
    export(tiny_folder, tmp_path / 'a', adapters=True)
  with pytest.raises(ValueError, match='expected a run of a language model'):
    export(runs / 'reward_model', tmp_path / 'c', adapters=True)
  with pytest.raises(ValueError, match="dtype='int8'.*'float32', 'bfloat16'"):
    export(runs / 'sft', tmp_path / 'b', dtype='int8')


def test_a_folder_that_no_export_has_begun_is_left_alone(
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capfd: pytest.CaptureFixture[str],
) -> None:
  """Such as the model that is read: `--workdir=. --config.model=model`."""
  model = tmp_path / 'model'
  shutil.copytree(tiny_folder, model)
  before = {file: file.read_bytes() for file in model.iterdir()}
  assert pipeline.command(
    monkeypatch,
    '--config=export',
    f'--workdir={tmp_path}',
    f'--config.model={model}',
  )
  assert f'{model} exists, and no export has begun' in capfd.readouterr().err
  assert {file: file.read_bytes() for file in model.iterdir()} == before
  assert not (tmp_path / 'config.json').exists()


class Killed(BaseException):
  """In place of a `kill -9`."""


def test_an_export_that_was_killed_goes_on_with_its_settings_alone(
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capfd: pytest.CaptureFixture[str],
) -> None:
  """Else its folder would have parts of two models."""
  arguments = (
    '--config=export',
    f'--workdir={tmp_path / "export"}',
    f'--config.model={tiny_folder}',
  )

  def kill(*_: Any) -> None:
    raise Killed

  with monkeypatch.context() as patched, pytest.raises(Killed):
    # after the weights
    patched.setattr(export_task, 'save_tokenizer', kill)
    pipeline.command(monkeypatch, *arguments)
  assert [*(tmp_path / 'export' / 'model').glob('*.safetensors')]
  other = '--config.dtype=bfloat16'
  assert pipeline.command(monkeypatch, *arguments, other) == 2
  assert 'other settings' in capfd.readouterr().err
  assert pipeline.command(monkeypatch, *arguments) == 0


def test_parts_that_an_interrupted_try_left_are_no_part_of_an_export(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  left = tmp_path / 'model' / 'model-00009-of-00009.safetensors'
  left.parent.mkdir()
  left.touch()
  folder = export(tiny_folder, tmp_path)
  assert [file.name for file in folder.glob('*.safetensors')] == [
    'model.safetensors'
  ]


def test_a_run_that_learned_adapters_can_be_gone_on_from(
  runs: pathlib.Path, tiny_folder: pathlib.Path
) -> None:
  base = language_model.load(tiny_folder, mesh())
  after, learned = language_model.restore(runs / 'sft', base)
  merged = language_model.load(runs / 'sft', mesh())
  assert merged.config.lora is None
  assert language_model.origin(runs / 'sft') == str(tiny_folder)
  joined = lora.join(learned, base.params)
  beside = after._replace(params=joined)
  assert np.abs(ours(beside) - ours(merged)).max() <= 1e-4


def test_adapters_are_read_beside_their_own_base_alone(
  runs: pathlib.Path, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  run = tmp_path / 'sft'
  shutil.copytree(runs / 'sft', run)
  model = {'path': str(tiny_folder), 'digest': 'of other weights'}
  files.write_json(run / 'inputs.json', {'inputs': {'model': model}})
  base = language_model.load(tiny_folder, mesh())
  for read in (
    lambda: language_model.load(run, mesh()),
    lambda: language_model.beside(run, base),
    lambda: export(run, tmp_path / 'out', adapters=True),
  ):
    with pytest.raises(ValueError, match='has other content since'):
      read()
