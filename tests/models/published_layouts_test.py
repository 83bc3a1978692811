"""Checkpoints as they are published: read, or refused in one line by name."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import checkpoints
import corruption
import forward_variants
import gguf
import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file, save_file

from rlcw.models import formats, weights
from rlcw.models.config import ModelConfig, RopeConfig

FILE = 'model.safetensors'
EMBED = 'model.embed_tokens.weight'


def edit(folder: pathlib.Path, fields: dict[str, Any]) -> None:
  """Changes fields of a folder's config.json."""
  file = folder / 'config.json'
  file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def add(folder: pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
  """Adds tensors to a folder's weights."""
  held = load_file(folder / FILE)
  save_file({**held, **tensors}, folder / FILE, {'format': 'pt'})


@pytest.fixture(scope='module')
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Any:
  """A multimodal Gemma 3 of random weights, and its folder."""
  model = checkpoints.multimodal('Gemma3', vocab_size=50)
  folder = tmp_path_factory.mktemp('multimodal')
  model.save_pretrained(folder)
  return model, folder


def test_adapters_beside_weights_are_refused(
  gemma: Any, tmp_path: pathlib.Path
) -> None:
  copy = corruption.copy(gemma[1], tmp_path)
  (copy / 'adapter_config.json').write_text('{}')
  with pytest.raises(ValueError, match='beside adapter_config.json of peft'):
    weights.load(copy)


@pytest.mark.parametrize(
  'prefix', ['language_model.model.', 'model.language_model.']
)
def test_the_text_part_of_a_multimodal_model_is_read(
  prefix: str, gemma: Any, tmp_path: pathlib.Path
) -> None:
  theirs, folder = gemma
  copy = corruption.copy(folder, tmp_path)
  renamed = {}
  for name, array in load_file(folder / FILE).items():
    for old in ('language_model.model.', 'model.language_model.'):
      name = name.replace(old, prefix)
    renamed[name] = array
  assert any(name.startswith(prefix) for name in renamed)
  assert any('vision_tower' in name for name in renamed)
  save_file(renamed, copy / FILE, {'format': 'pt'})
  config, params = weights.load(copy)
  if prefix.startswith('model'):
    tokens = np.arange(2, 26).reshape(2, 12)
    ours = forward_variants.logits(config, params, tokens)
    expected = forward_variants.torch_logits(theirs, tokens)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(ours, expected, atol=1e-4)
  source = formats.open_source(copy)
  assert source.config['model_type'] == 'gemma3_text'
  assert source.config['eos_token_id'] == [1, 7]
  held = {
    name.replace('model.language_model.', 'model.'): weight.numpy()
    for name, weight in theirs.state_dict().items()
    if name.startswith('model.language_model.')
  }
  checkpoints.assert_holds((config, params), held)


def test_fields_that_a_text_part_leaves_out_have_their_defaults() -> None:
  # as google/gemma-3-4b-it has it
  config = ModelConfig.from_hf(
    {
      'model_type': 'gemma3',
      'eos_token_id': [1, 106],
      'vision_config': {'hidden_size': 1152},
      'text_config': {
        'model_type': 'gemma3_text',
        'hidden_size': 2560,
        'intermediate_size': 10240,
        'num_hidden_layers': 34,
        'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'},
        'sliding_window': 1024,
      },
    }
  )
  defaults = transformers.Gemma3TextConfig()
  assert config.vocab_size == defaults.vocab_size
  assert config.num_heads == defaults.num_attention_heads
  assert config.num_kv_heads == defaults.num_key_value_heads
  assert config.head_dim == defaults.head_dim
  assert config.query_scale == defaults.query_pre_attn_scalar**-0.5
  assert config.norm_eps == defaults.rms_norm_eps
  assert config.rope == RopeConfig(1e6, 'linear', 8.0)
  assert config.local_rope == RopeConfig(10_000.0)
  assert config.local_layers[:7] == (True,) * 5 + (False, True)
  assert (config.window, config.tied_head) == (1024, True)


@pytest.mark.parametrize(
  'name',
  [
    'rotary_emb.inv_freq',
    'model.rotary_emb.inv_freq',
    'model.rotary_emb_local.inv_freq',
    'model.layers.0.self_attn.rotary_emb.inv_freq',
    'model.layers.1.self_attn.rotary_emb.cos_cached',
    'model.layers.0.attn.bias',
    'model.layers.0.attn.masked_bias',
    'model.layers.0.self_attn.masked_bias',
    'model.embeddings.position_ids',
    'position_ids',
  ],
)
def test_a_buffer_that_nothing_reads_is_ignored(
  name: str, tiny_folder: pathlib.Path, tiny: Any, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(tiny_folder, tmp_path)
  # of a kind that no weight may have
  add(folder, {name: np.arange(4)})
  checkpoints.assert_holds(
    weights.load(folder), checkpoints.under_their_names(*tiny)
  )


@pytest.mark.parametrize(
  'name',
  [
    'model.layers.0.self_attn.q_proj.bias',
    'model.layers.0.self_attn.inv_freq_norm.weight',
    'model.layers.0.self_attn.rotary_emb.scale',
    'vision_tower.embed.weight',
  ],
)
def test_an_unknown_weight_is_an_error(
  name: str, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(tiny_folder, tmp_path)
  add(folder, {name: np.ones(4, np.float32)})
  corruption.refuses(folder, f'unknown: {name}')


HEADER = {
  'model_type': 'llama',
  'vocab_size': 50,
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'rms_norm_eps': 1e-5,
  'max_position_embeddings': 64,
}
LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8192,
}
OLD_LLAMA3 = {'type' if k == 'rope_type' else k: v for k, v in LLAMA3.items()}


@pytest.mark.parametrize(
  ('fields', 'rope'),
  [
    (
      {
        'rope_parameters': {**LLAMA3, 'rope_theta': 5e5},
        'rope_scaling': {**LLAMA3, 'factor': 8.0},
        'rope_theta': 500_000,
      },
      RopeConfig(5e5, 'llama3', 8.0),
    ),
    (
      {
        'rope_parameters': {**LLAMA3, 'rope_theta': 5e5},
        'rope_scaling': OLD_LLAMA3,
      },
      RopeConfig(5e5, 'llama3', 8.0),
    ),
    (
      {
        'rope_parameters': {'rope_theta': 1e6, 'rope_type': 'default'},
        'rope_scaling': {'type': 'default'},
        'rope_theta': 1e6,
      },
      RopeConfig(1e6),
    ),
    (
      {
        'rope_parameters': {'rope_theta': 1e6, 'rope_type': 'default'},
        'rope_scaling': None,
      },
      RopeConfig(1e6),
    ),
    (
      {
        'rope_parameters': {
          'type': 'linear',
          'rope_type': 'linear',
          'factor': 2,
        },
        'rope_scaling': {'type': 'linear', 'factor': 2.0},
      },
      RopeConfig(1e4, 'linear', 2.0),
    ),
    (
      {
        'rope_parameters': {'rope_theta': 1e6},
        'rope_scaling': {'type': 'linear', 'factor': 2.0},
      },
      RopeConfig(1e6, 'linear', 2.0),
    ),
  ],
)
def test_two_ropes_that_say_the_same_agree(
  fields: dict[str, Any], rope: RopeConfig
) -> None:
  assert ModelConfig.from_hf({**HEADER, **fields}).rope == rope


@pytest.mark.parametrize(
  'fields',
  [
    {
      'rope_parameters': {'rope_type': 'linear', 'factor': 2.0},
      'rope_scaling': {'type': 'linear', 'factor': 4.0},
    },
    {'rope_parameters': LLAMA3, 'rope_scaling': {**LLAMA3, 'factor': 9.0}},
    {'rope_parameters': LLAMA3, 'rope_scaling': {'type': 'linear'}},
    {'rope_parameters': {'rope_theta': 1e6}, 'rope_theta': 1e4},
    {'rope_parameters': {**LLAMA3, 'type': 'linear'}},
    {
      'rope_parameters': {
        'full_attention': {'rope_theta': 1e6},
        'sliding_attention': {'rope_theta': 1e4},
      },
      'rope_theta': 1e4,
    },
  ],
)
def test_two_ropes_that_differ_contradict_in_one_line(
  fields: dict[str, Any],
) -> None:
  with pytest.raises(ValueError, match='contradicts') as error:
    ModelConfig.from_hf({**HEADER, **fields})
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  ('fields', 'parts'),
  [
    ({'model_type': 'mixtral'}, ["model_type='mixtral'"]),
    ({'model_type': 'qwen3_moe', 'num_experts': 128}, ['num_experts=128']),
    ({'num_local_experts': 8}, ['num_local_experts=8', 'mixture of experts']),
    ({'model_type': 'qwen3_next'}, ["model_type='qwen3_next'"]),
    ({'model_type': 'jamba'}, ["model_type='jamba'"]),
    ({'model_type': 'llava', 'text_config': {}}, ["model_type='llava'"]),
    (
      {'layer_types': ['full_attention', 'linear_attention']},
      ['linear_attention'],
    ),
    *[
      ({field: {'rope_type': kind, 'factor': 4.0}}, [f'rope type {kind!r}'])
      for field in ('rope_scaling', 'rope_parameters')
      for kind in ('axial', 'su', 'mrope')
    ],
    *[
      ({'quantization_config': {'quant_method': kind}}, [kind, 'quantised'])
      for kind in ('bitsandbytes', 'gptq', 'awq', 'fp8', 'compressed-tensors')
    ],
  ],
)
def test_what_is_not_supported_is_refused_by_name(
  fields: dict[str, Any],
  parts: list[str],
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  folder = corruption.copy(tiny_folder, tmp_path)
  edit(folder, {'rope_parameters': None, **fields})
  if 'quantization_config' in fields:
    add(folder, {EMBED: np.zeros((300, 4), np.uint8)})
  corruption.refuses(folder, 'config.json', *parts)
  with pytest.raises(ValueError) as error:
    formats.open_source(folder).model_config()
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'name',
  [
    'v_head.summary.weight',
    'value_head.weight',
    'score.weight',
    'classifier.weight',
  ],
)
def test_a_head_that_is_not_a_language_models_is_named(
  name: str, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(tiny_folder, tmp_path)
  add(folder, {name: np.ones((1, 32), np.float32)})
  corruption.refuses(folder, name, 'expected a language model')
  if name != 'score.weight':
    with pytest.raises(ValueError, match=rf'{name} .*expected score.weight'):
      weights.load_classifier(folder)


def test_adapters_alone_name_their_base(tmp_path: pathlib.Path) -> None:
  (tmp_path / 'adapter_model.safetensors').touch()
  record = {'base_model_name_or_path': 'org/base', 'peft_type': 'LORA'}
  (tmp_path / 'adapter_config.json').write_text(json.dumps(record))
  corruption.refuses(tmp_path, "'org/base'", 'peft', 'merge_and_unload')
  # some have their base's configuration too
  (tmp_path / 'config.json').write_text(json.dumps(HEADER))
  corruption.refuses(tmp_path, "'org/base'", 'peft', 'merge_and_unload')


def test_a_pickle_comes_with_the_way_to_convert_it(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  folder = corruption.copy(tiny_folder, tmp_path)
  (folder / FILE).rename(folder / 'pytorch_model-00001-of-00002.bin')
  corruption.refuses(folder, 'safetensors', 'pytorch_model', 'save_pretrained')


def test_a_shard_of_gguf_says_so(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  def split(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    writer.add_uint16('split.count', 3)

  path = tmp_path / 'model-00001-of-00003.gguf'
  checkpoints.write_gguf(path, make_model('llama'), split)
  corruption.refuses(path, '3 shards', '--merge')
  corruption.refuses(tmp_path, 'GGUF', path.name)


def test_a_gguf_mixture_of_experts_is_refused(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  def experts(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    writer.add_expert_count(8)

  path = checkpoints.write_gguf(
    tmp_path / 'model.gguf', make_model('llama'), experts
  )
  corruption.refuses(path, 'llama.expert_count=8', 'mixture of experts')
