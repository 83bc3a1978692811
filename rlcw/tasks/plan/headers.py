"""Shapes of models, without their weights."""

from pathlib import Path
from typing import Any

from rlcw.models import formats
from rlcw.models.config import ModelConfig
from rlcw.rewards import reward_model
from rlcw.runtime import files, runs


def _header(
  family: str, vocab: int, dim: int, mlp: int, *counts: int, **more: Any
) -> dict[str, Any]:
  """A `config.json` as Hugging Face writes it, for the shapes of a model."""
  layers, heads, kv = counts
  return {
    'model_type': family,
    'vocab_size': vocab,
    'hidden_size': dim,
    'intermediate_size': mlp,
    'num_hidden_layers': layers,
    'num_attention_heads': heads,
    'num_key_value_heads': kv,
    'rms_norm_eps': 1e-6,
    'rope_theta': 1e6,
    'head_dim': 128,
  } | more


_GEMMA = {'head_dim': 256, 'query_pre_attn_scalar': 256}

# The config.json of models too large to be downloaded for their shapes.  Values
# that change no shape (eps, rotary angles) are not the models' own.
MODELS = {
  'Qwen/Qwen2.5-7B-Instruct': _header('qwen2', 152064, 3584, 18944, 28, 28, 4),
  'Qwen/Qwen2.5-32B-Instruct': _header('qwen2', 152064, 5120, 27648, 64, 40, 8),
  'Qwen/Qwen2.5-72B-Instruct': _header('qwen2', 152064, 8192, 29568, 80, 64, 8),
  'Qwen/Qwen3-8B': _header('qwen3', 151936, 4096, 12288, 36, 32, 8),
  'meta-llama/Llama-3.1-8B-Instruct': _header(
    'llama', 128256, 4096, 14336, 32, 32, 8, tie_word_embeddings=False
  ),
  'mistralai/Mistral-7B-Instruct-v0.3': _header(
    'mistral', 32768, 4096, 14336, 32, 32, 8, sliding_window=None
  ),
  'mistralai/Ministral-3-8B-Base-2512': _header(
    'ministral3', 131072, 4096, 14336, 34, 32, 8
  ),
  'mistralai/Ministral-8B-Instruct-2410': _header(
    *('ministral', 131072, 4096, 12288, 36, 32, 8),
    sliding_window=32768,
    layer_types=(['full_attention'] + ['sliding_attention'] * 3) * 9,
  ),
  'HuggingFaceTB/SmolLM3-3B': _header(
    'smollm3', 128256, 2048, 11008, 36, 16, 4
  ),
  'allenai/OLMo-2-1124-7B-Instruct': _header(
    'olmo2', 100352, 4096, 11008, 32, 32, 32
  ),
  'allenai/Olmo-3-7B-Instruct': _header(
    'olmo3', 100278, 4096, 11008, 32, 32, 32
  ),
  'ibm-granite/granite-3.3-8b-instruct': _header(
    'granite', 49159, 4096, 12800, 40, 32, 8, tie_word_embeddings=True
  ),
  'microsoft/phi-4': _header('phi3', 100352, 5120, 17920, 40, 40, 10),
  'google/gemma-2-9b-it': _header(
    'gemma2', 256000, 3584, 14336, 42, 16, 8, **_GEMMA, sliding_window=4096
  ),
  'google/gemma-3-12b-it': _header(
    'gemma3_text', 262208, 3840, 15360, 48, 16, 8, **_GEMMA, sliding_window=1024
  ),
  'google/gemma-4-31B-it': _header(
    *('gemma4_text', 262144, 5376, 21504, 60, 32, 16),
    head_dim=256,
    sliding_window=1024,
    hidden_size_per_layer_input=0,
    attention_k_eq_v=True,
    num_global_key_value_heads=4,
    final_logit_softcapping=30.0,
  ),
  'google/gemma-4-E2B-it': _header(
    *('gemma4_text', 262144, 1536, 6144, 35, 8, 1),
    head_dim=256,
    sliding_window=512,
    num_kv_shared_layers=20,
    use_double_wide_mlp=True,
    final_logit_softcapping=30.0,
    layer_types=(['sliding_attention'] * 4 + ['full_attention']) * 7,
  ),
}


def shape_of(model: str) -> ModelConfig:
  """Config of a model in `MODELS`, in a local folder, on the Hub, or of a run.

  That of a `reward_model` run has the layers that its reward model reads.

  Raises:
    FileNotFoundError, ValueError: as `formats.open_source` or `runs.lineage`.
  """
  if model in MODELS:
    return ModelConfig.from_hf(MODELS[model])
  found, start = runs.lineage(model)
  if found:
    workdir, run = found[0]
    is_reward = run.task == 'reward_model'
    layers = reward_model.layers_of(workdir, run) if is_reward else 0
    return shape_of(start).first_layers(layers)
  # A folder with a config.json alone will do: weights are not needed.
  header = Path(model) / 'config.json'
  if header.is_file():
    return ModelConfig.from_hf(files.read_json(header))
  return formats.open_source(model).model_config()
