"""Checkpoints as others write and name them, for the tests of ours."""

import collections
import math
import operator
import pathlib
import types
from collections.abc import Callable
from typing import Any

import gguf
import jax
import numpy as np

from rlcw.models import weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params

Tensors = dict[str, np.ndarray]
_ARCHITECTURES = {
  'llama': gguf.MODEL_ARCH.LLAMA,
  'qwen2': gguf.MODEL_ARCH.QWEN2,
  'qwen3': gguf.MODEL_ARCH.QWEN3,
  'gemma3_text': gguf.MODEL_ARCH.GEMMA3,
  'gemma2': gguf.MODEL_ARCH.GEMMA2,
  'smollm3': gguf.MODEL_ARCH.SMOLLM3,
  'olmo2': gguf.MODEL_ARCH.OLMO2,
  'granite': gguf.MODEL_ARCH.GRANITE,
  'phi3': gguf.MODEL_ARCH.PHI3,
  'mistral': gguf.MODEL_ARCH.LLAMA,
  'ministral3': gguf.MODEL_ARCH.MISTRAL3,
  'olmo3': gguf.MODEL_ARCH.OLMO2,
  'gemma4_text': gguf.MODEL_ARCH.GEMMA4,
}
# Whose rotary pairs llama.cpp's converter interleaves.
_INTERLEAVED = 'llama', 'mistral', 'ministral3', 'smollm3', 'granite'


def state(theirs: Any) -> Tensors:
  """The weights that a checkpoint of this model holds."""
  held = {k: v.float().numpy() for k, v in theirs.state_dict().items()}
  if theirs.config.tie_word_embeddings:
    held.pop('lm_head.weight', None)
  return held


def under_their_names(config: ModelConfig, params: Params) -> Tensors:
  """Our parameters as a checkpoint has them."""
  # (first row, tensor) of each parameter in a tensor
  found: dict[str, list[Any]] = collections.defaultdict(list)
  for keys, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
    path = '/'.join(key.key for key in keys)
    stacked = np.asarray(leaf if path.startswith('blocks/') else leaf[None])
    first = weights.members(config, path)[path].start or 0
    for name, array in zip(weights.names(config, path), stacked, strict=True):
      found[name].append((first, array))
  return {
    name: np.concatenate([each for _, each in sorted(parts, key=_first)])
    for name, parts in found.items()
  }


_first = operator.itemgetter(0)


def assert_holds(loaded: tuple[ModelConfig, Params], tensors: Tensors) -> None:
  found = under_their_names(*loaded)
  assert found.keys() == tensors.keys()
  for name, expected in tensors.items():
    np.testing.assert_array_equal(found[name], expected, err_msg=name)


def multimodal(name: str, **text: Any) -> Any:
  """A multimodal `Gemma3` or `Gemma4` of random weights.

  Args:
    name: of the family.
    text: settings of its text decoder.
  """
  import torch
  import transformers

  vision: dict[str, Any] = {
    'hidden_size': 8,
    'intermediate_size': 8,
    'num_hidden_layers': 1,
    'num_attention_heads': 1,
    'patch_size': 14,
  }
  settings: dict[str, Any] = {}
  if name == 'Gemma3':
    text = {'query_pre_attn_scalar': 10} | text
    vision |= {'image_size': 28}
    settings |= {'mm_tokens_per_image': 4}
  else:
    text = {
      'num_hidden_layers': 4,
      'global_head_dim': 16,
      'num_kv_shared_layers': 2,
      'hidden_size_per_layer_input': 4,
      'vocab_size_per_layer_input': text['vocab_size'],
    } | text
    vision |= {'num_key_value_heads': 1, 'position_embedding_size': 16}
  text = {
    'hidden_size': 16,
    'intermediate_size': 24,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'num_key_value_heads': 1,
    'head_dim': 8,
    'sliding_window': 4,
    'initializer_range': 0.2,
  } | text
  layers = text['num_hidden_layers'] // 2
  config = getattr(transformers, f'{name}Config')(
    text_config=text
    | {'layer_types': ['sliding_attention', 'full_attention'] * layers},
    vision_config=vision,
    eos_token_id=[1, 7],
    **settings,
  )
  torch.manual_seed(0)
  kind = getattr(transformers, f'{name}ForConditionalGeneration')
  return kind._from_config(config, attn_implementation='eager').eval()


def _interleaved(kernel_OxI: np.ndarray, heads: int) -> np.ndarray:
  """What llama.cpp's converter does to Llama's queries and keys."""
  out, inner = kernel_OxI.shape
  halves = kernel_OxI.reshape(heads, 2, out // heads // 2, inner)
  return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(out, inner)


def _llama3_divisors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
  """The table that llama.cpp's converter makes of Llama 3's positions."""
  length = rope['original_max_position_embeddings']
  low, high = rope['low_freq_factor'], rope['high_freq_factor']
  divisors = []
  for i in range(0, head_dim, 2):
    wave = 2 * math.pi * rope['rope_theta'] ** (i / head_dim)
    if wave < length / high:
      divisors.append(1.0)
    elif wave > length / low:
      divisors.append(rope['factor'])
    else:
      smooth = (length / wave - low) / (high - low)
      divisors.append(1 / ((1 - smooth) / rope['factor'] + smooth))
  return np.array(divisors, np.float32)


def _add_gemma4(writer: gguf.GGUFWriter, tensors: Tensors, config: Any) -> None:
  """Adds what only files of Gemma 4 have, or have for each layer."""
  c, layers = config, config.num_hidden_layers
  shared = layers - c.num_kv_shared_layers
  local = [kind == 'sliding_attention' for kind in c.layer_types]
  own = c.per_layer_config[str(local.index(False))]
  kv = own.get('num_key_value_heads', c.num_key_value_heads)
  wider = 2 if c.use_double_wide_mlp else 1
  writer.add_head_count_kv(
    [c.num_key_value_heads if each else kv for each in local]
  )
  writer.add_feed_forward_length(
    [c.intermediate_size * (wider if n >= shared else 1) for n in range(layers)]
  )
  writer.add_key_length(own['head_dim'])
  writer.add_value_length(own['head_dim'])
  writer.add_key_length_swa(c.head_dim)
  writer.add_value_length_swa(c.head_dim)
  writer.add_rope_dimension_count(own['head_dim'])
  writer.add_rope_dimension_count_swa(c.head_dim)
  writer.add_rope_freq_base_swa(
    c.rope_parameters['sliding_attention']['rope_theta']
  )
  writer.add_shared_kv_layers(c.num_kv_shared_layers)
  writer.add_embedding_length_per_layer_input(c.hidden_size_per_layer_input)
  if c.final_logit_softcapping:
    writer.add_final_logit_softcapping(c.final_logit_softcapping)
  pairs = own['head_dim'] // 2
  share = c.rope_parameters['full_attention']['partial_rotary_factor']
  tensors['rope_freqs.weight'] = np.where(
    np.arange(pairs) < int(pairs * share), 1.0, 1e30
  ).astype(np.float32)


def write_gguf(
  path: pathlib.Path,
  theirs: Any,
  edit: Callable[[gguf.GGUFWriter, Tensors], None] = lambda *_: None,
) -> pathlib.Path:
  """A model's GGUF file, as llama.cpp's `convert_hf_to_gguf.py` writes it.

  Args:
    path: of the new file.
    theirs: the model.
    edit: changes the header and the tensors before they are written.
  """
  c = types.SimpleNamespace(**theirs.config.to_dict())
  architecture = _ARCHITECTURES[c.model_type]
  writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
  writer.add_context_length(c.max_position_embeddings)
  writer.add_embedding_length(c.hidden_size)
  if c.model_type != 'gemma4_text':
    writer.add_feed_forward_length(c.intermediate_size)
  writer.add_block_count(c.num_hidden_layers)
  writer.add_head_count(c.num_attention_heads)
  if c.model_type != 'gemma4_text':
    writer.add_head_count_kv(c.num_key_value_heads)
  writer.add_layer_norm_rms_eps(c.rms_norm_eps)
  head_dim = getattr(c, 'head_dim', None)
  if head_dim is not None and c.model_type != 'gemma4_text':
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
  rope = c.rope_parameters
  rope = rope.get('full_attention', rope)
  if c.model_type in ('gemma3_text', 'gemma4_text', 'olmo3'):
    writer.add_sliding_window(c.sliding_window)
  if c.model_type in ('gemma4_text', 'olmo3'):
    local = [kind == 'sliding_attention' for kind in c.layer_types]
    writer.add_sliding_window_pattern(local)
  if c.model_type in ('gemma2', 'phi3'):
    writer.add_sliding_window(c.sliding_window or 0)
  if c.model_type == 'gemma2':
    writer.add_attn_logit_softcapping(c.attn_logit_softcapping)
    writer.add_final_logit_softcapping(c.final_logit_softcapping)
  if c.model_type == 'granite':
    writer.add_attention_scale(c.attention_multiplier)
    writer.add_embedding_scale(c.embedding_multiplier)
    writer.add_residual_scale(c.residual_multiplier)
    writer.add_logit_scale(c.logits_scaling)
  if c.model_type == 'phi3':
    size = c.hidden_size // c.num_attention_heads
    writer.add_rope_dimension_count(int(size * rope['partial_rotary_factor']))
  writer.add_rope_freq_base(rope['rope_theta'])
  tensors: Tensors = {}
  if c.model_type == 'gemma4_text':
    _add_gemma4(writer, tensors, c)
  if rope['rope_type'] == 'linear':
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(rope['factor'])
  elif rope['rope_type'] == 'llama3':
    tensors['rope_freqs.weight'] = _llama3_divisors(rope, head_dim)
  elif rope['rope_type'] == 'longrope':
    length = c.original_max_position_embeddings
    factor = c.max_position_embeddings / length
    scale = math.sqrt(1 + math.log(factor) / math.log(length))
    writer.add_rope_scaling_attn_factors(scale)
    writer.add_rope_scaling_orig_ctx_len(length)
    for name in ('short', 'long'):
      table = np.array(rope[f'{name}_factor'], np.float32)
      tensors[f'rope_factors_{name}.weight'] = table
  elif rope['rope_type'] == 'yarn':
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope['factor'])
    writer.add_rope_scaling_orig_ctx_len(
      rope['original_max_position_embeddings']
    )
    for field, add in {
      'attention_factor': writer.add_rope_scaling_yarn_attn_factor,
      'beta_fast': writer.add_rope_scaling_yarn_beta_fast,
      'beta_slow': writer.add_rope_scaling_yarn_beta_slow,
      'mscale_all_dim': writer.add_rope_scaling_yarn_log_mul,
      'llama_4_scaling_beta': writer.add_attn_temperature_scale,
    }.items():
      if rope.get(field) is not None:
        add(rope[field])
  if c.model_type in ('llama', 'mistral'):
    writer.add_vocab_size(c.vocab_size)
    writer.add_rope_dimension_count(head_dim)
  heads = {'q_proj': c.num_attention_heads, 'k_proj': c.num_key_value_heads}
  table = gguf.get_tensor_name_map(architecture, c.num_hidden_layers)
  for name, tensor in state(theirs).items():
    kind = name.split('.')[-2]
    if c.model_type in _INTERLEAVED and kind in heads:
      tensor = _interleaved(tensor, heads[kind])
    if c.model_type in ('gemma2', 'gemma3_text') and name.endswith(
      'norm.weight'
    ):
      tensor = tensor + 1
    if name.endswith('layer_scalar'):
      name += '.weight'
    short = table.get_name(name, try_suffixes=('.weight', '.bias'))
    assert short is not None, name
    tensors[short] = tensor
  edit(writer, tensors)
  for name, tensor in tensors.items():
    writer.add_tensor(name, tensor)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path
