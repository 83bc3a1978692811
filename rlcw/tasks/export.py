"""Task `export`: a run's model as a folder that `transformers` loads.

What vLLM, SGLang or `peft` need is all in `WORKDIR/model`:

  a policy         config.json, safetensors, tokenizer: AutoModelForCausalLM
  its adapters     adapter_config.json and the adapters alone: PeftModel
  a reward model   AutoModelForSequenceClassification with one label
"""

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from rlcw import Config
from rlcw.models import formats, language_model, lora, tokenizer, weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.rewards import reward_model
from rlcw.runtime import metrics
from rlcw.runtime.files import write_json
from rlcw.runtime.mesh import make_mesh, with_mesh

_CAUSAL = {
  'llama': 'LlamaForCausalLM',
  'qwen2': 'Qwen2ForCausalLM',
  'qwen3': 'Qwen3ForCausalLM',
  'gemma3_text': 'Gemma3ForCausalLM',
}
_CLASSIFIER = {
  'llama': 'LlamaForSequenceClassification',
  'qwen2': 'Qwen2ForSequenceClassification',
  'qwen3': 'Qwen3ForSequenceClassification',
  'gemma3_text': 'Gemma3TextForSequenceClassification',
}


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Writes the folder; returns the summary."""
  if config.dtype not in weights.DTYPES:
    raise ValueError(f'dtype={config.dtype!r}; legal: {weights.DTYPES}')
  mesh = make_mesh(**config.mesh)
  folder = workdir / 'model'
  folder.mkdir(exist_ok=True)
  run = language_model.run_config(config.model)
  if config.adapters:
    if run is None or run.task == 'reward_model' or run.train != 'lora':
      raise ValueError(
        f'adapters=True, but {config.model} is no run with train=lora of a '
        'model that writes'
      )
    start = language_model.load(run.model, mesh)
    model, learned = language_model.restore(config.model, start)
    save_adapters(model.config, learned, run.model, folder)
  elif run is not None and run.task == 'reward_model':
    start = language_model.load(run.model, mesh)
    reward = reward_model.load(config.model, start)
    model = reward.decoder
    save_classifier(reward, folder, config)
  else:
    model = language_model.load(config.model, mesh)
    write_header(config, folder, model.tokenizer, _CAUSAL)
    weights.save(model.config, model.params, folder, config.dtype)
  model.tokenizer.save_pretrained(folder)
  files = sorted(folder.glob('*.safetensors'))
  for file in files:
    file.chmod(0o644)  # safetensors makes them for their owner's eyes alone
  summary = {
    'folder': str(folder),
    'files': [file.name for file in files],
    'bytes': sum(file.stat().st_size for file in files),
  }
  metrics.log(f'export: {folder}, {summary["bytes"] / 2**20:.0f} MiB')
  return summary


def write_header(
  config: Config, folder: Path, text: Any, architectures: dict[str, str]
) -> None:
  """`config.json` as it came, but for what is now another; endings of replies.

  A GGUF file has no `config.json`; its header says the same.
  """
  source = formats.open_source(language_model.origin(config.model))
  header = dict(source.config)
  for old in ('torch_dtype', 'transformers_version', 'id2label', 'label2id'):
    header.pop(old, None)
  header |= {
    'architectures': [architectures[header['model_type']]],
    'dtype': config.dtype,
  }
  if architectures is _CLASSIFIER:
    header |= {'id2label': {'0': 'score'}, 'label2id': {'score': 0}}
    header['pad_token_id'] = text.pad_token_id
  else:
    name = 'generation_config.json'
    before = source.path / name
    generation = formats.read_json(before) if before.exists() else {}
    generation['eos_token_id'] = list(tokenizer.eos_ids(text))
    write_json(folder / name, generation)
  write_json(folder / 'config.json', header)


def save_classifier(
  reward: reward_model.RewardModel, folder: Path, config: Config
) -> None:
  """A reward model as a sequence classifier with one label.

  Raises:
    ValueError: it reads more than the last token, which classifiers do not.
  """
  if reward.pooling != 'last':
    raise ValueError(
      f'{config.model} reads a reply with pooling={reward.pooling!r}; a '
      "sequence classifier reads its last token: train with pooling='last'"
    )
  model = reward.decoder
  # It is read at the last token that is no padding, and that token is EOS.
  text = model.tokenizer
  if text.pad_token_id in (None, text.eos_token_id):
    ids = (text.unk_token_id, text.bos_token_id)
    text.pad_token_id = next(
      (i for i in ids if i not in (None, text.eos_token_id)), None
    )
  write_header(config, folder, text, _CLASSIFIER)
  params = lora.merge(model.config, model.params)
  # it has no language-model head
  params = {k: v for k, v in params.items() if k != 'head'}
  params['score'] = np.asarray(reward.head.weight)[None]
  weights.save(model.config, params, folder, config.dtype)


def save_adapters(
  config: ModelConfig, learned: Params, base: str, folder: Path
) -> None:
  """Adapters in the layout of `peft`: `lora_A` `[R, I]`, `lora_B` `[O, R]`."""
  assert config.lora is not None
  tensors, targets = {}, []
  for name in config.lora.targets:
    kernels = weights.names(config, f'blocks/{name}/kernel')
    targets.append(kernels[0].split('.')[-2])
    for half, theirs in (('lora_a', 'lora_A'), ('lora_b', 'lora_B')):
      leaf = np.asarray(learned['blocks'][name][half])
      for kernel, array in zip(kernels, leaf, strict=True):
        stem = kernel.removesuffix('.weight')
        tensors[f'base_model.model.{stem}.{theirs}.weight'] = array
  save_file(tensors, folder / 'adapter_model.safetensors', {'format': 'pt'})
  write_json(
    folder / 'adapter_config.json',
    {
      'peft_type': 'LORA',
      'task_type': 'CAUSAL_LM',
      'base_model_name_or_path': base,
      'r': config.lora.rank,
      'lora_alpha': config.lora.alpha,
      'lora_dropout': 0.0,
      'target_modules': targets,
      'bias': 'none',
      'inference_mode': True,
    },
  )
