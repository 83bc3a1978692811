"""Weights in: safetensors folders and GGUF files; nothing is unpickled.

One table says where each of our parameters stands in a checkpoint.  Our
kernels are `[out, in]`, as in Hugging Face's files, so nothing is transposed;
blocks are stacked over layers.  GGUF differs in its names and in the order of
the rotary halves of Llama's queries and keys, which is undone here.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlcw.model import ModelConfig, Params

# our path: (Hugging Face name, GGUF name, shape in terms of the config)
_TOP = {
  'embed': ('model.embed_tokens.weight', 'token_embd.weight', 'VD'),
  'head': ('lm_head.weight', 'output.weight', 'VD'),
  'final_norm/scale': ('model.norm.weight', 'output_norm.weight', 'D'),
}
_BLOCK = {
  'attention_norm/scale': ('input_layernorm', 'attn_norm', 'D'),
  'query/kernel': ('self_attn.q_proj', 'attn_q', 'ND'),
  'key/kernel': ('self_attn.k_proj', 'attn_k', 'KD'),
  'value/kernel': ('self_attn.v_proj', 'attn_v', 'KD'),
  'output/kernel': ('self_attn.o_proj', 'attn_output', 'DN'),
  'mlp_norm/scale': ('post_attention_layernorm', 'ffn_norm', 'D'),
  'gate/kernel': ('mlp.gate_proj', 'ffn_gate', 'FD'),
  'up/kernel': ('mlp.up_proj', 'ffn_up', 'FD'),
  'down/kernel': ('mlp.down_proj', 'ffn_down', 'DF'),
}


class Checkpoint(NamedTuple):
  """A checkpoint on disk: its configuration and a reader for each tensor."""

  config: ModelConfig
  tensors: Mapping[str, Callable[[], np.ndarray]]  # by Hugging Face name
  shapes: Mapping[str, tuple[int, ...]]  # of the same, known without reading


def load(
  path: str | Path, dtype: str = 'float32'
) -> tuple[ModelConfig, Params]:
  """Loads a model.

  Args:
    path: a GGUF file, or a folder with `config.json` and safetensors.
    dtype: of the parameters.

  Returns:
    The configuration, and the parameters as NumPy arrays, blocks stacked.

  Raises:
    FileNotFoundError: there is no such file or folder.
    ValueError: all missing, unknown and wrong-shaped tensors, in one message.
  """
  path = Path(path)
  if not path.exists():
    raise FileNotFoundError(
      f'no model at {path}: give a GGUF file, or a folder with config.json and '
      'safetensors (scripts/quickstart.sh fetches one into models/)'
    )
  source = open_gguf(path) if path.is_file() else open_safetensors(path)
  names = hf_names(source.config)
  wanted = {name: shape for rows in names.values() for name, shape in rows}
  errors = [f'missing: {n}' for n in sorted(wanted.keys() - source.tensors)]
  errors += [f'unknown: {n}' for n in sorted(source.tensors.keys() - wanted)]
  errors += [
    f'{n}: shape {source.shapes[n]} where {wanted[n]} is expected'
    for n in sorted(wanted.keys() & source.tensors)
    if source.shapes[n] != wanted[n]
  ]
  if errors:
    raise ValueError(
      f'{path} does not fit the model:\n  ' + '\n  '.join(errors)
    )
  params: Params = {}
  for ours, rows in names.items():
    leaf = [np.asarray(source.tensors[name](), dtype) for name, _ in rows]
    node = params
    *parents, last = ours.split('/')
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = np.stack(leaf) if parents[:1] == ['blocks'] else leaf[0]
  return source.config, params


def hf_names(
  config: ModelConfig,
) -> dict[str, list[tuple[str, tuple[int, ...]]]]:
  """Our path to the Hugging Face names and shapes that it is stacked from."""
  sizes = {
    'V': config.vocab_size,
    'D': config.model_dim,
    'F': config.mlp_dim,
    'N': config.num_heads * config.head_dim,
    'K': config.num_kv_heads * config.head_dim,
  }

  def shape(letters: str) -> tuple[int, ...]:
    return tuple(sizes[letter] for letter in letters)

  names = {
    ours: [(hf, shape(letters))]
    for ours, (hf, _, letters) in _TOP.items()
    if not (ours == 'head' and config.tied_head)
  }
  for ours, (hf, _, letters) in _BLOCK.items():
    names[f'blocks/{ours}'] = [
      (f'model.layers.{i}.{hf}.weight', shape(letters))
      for i in range(config.num_layers)
    ]
  return names


def open_safetensors(folder: Path) -> Checkpoint:
  """A Hugging Face folder: `config.json` and one or more safetensors files."""
  from safetensors import safe_open

  config_file = folder / 'config.json'
  files = sorted(folder.glob('*.safetensors'))
  if not config_file.exists() or not files:
    raise FileNotFoundError(
      f'{folder} needs config.json and at least one *.safetensors file; '
      f'it has: {sorted(p.name for p in folder.iterdir())}'
    )
  config = ModelConfig.from_hf(json.loads(config_file.read_text()))

  def reader(handle: Any, name: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
      # NumPy alone has no bfloat16; JAX's arrays on the host carry it.
      with jax.default_device(jax.local_devices(backend='cpu')[0]):
        return np.asarray(handle.get_tensor(name))

    return read

  tensors, shapes = {}, {}
  for file in files:
    handle = safe_open(file, framework='flax')
    for name in handle.keys():  # noqa: SIM118
      tensors[name] = reader(handle, name)
      shapes[name] = tuple(handle.get_slice(name).get_shape())
  if config.tied_head:  # some exporters write the tied head a second time
    tensors.pop('lm_head.weight', None)
  return Checkpoint(config, tensors, shapes)


def open_gguf(file: Path) -> Checkpoint:
  """A GGUF file of the Llama family, dequantised tensor by tensor."""
  import gguf

  reader = gguf.GGUFReader(file)

  def field(key: str, default: Any = None) -> Any:
    found = reader.get_field(key)
    return default if found is None else found.contents()

  family = field('general.architecture')
  stored = {tensor.name: tensor for tensor in reader.tensors}
  heads = field(f'{family}.attention.head_count')
  scaling = field(f'{family}.rope.scaling.type', 'none')
  kv_heads = field(f'{family}.attention.head_count_kv', heads)
  embedding = stored.get('token_embd.weight')
  config = ModelConfig.from_hf(
    {
      'model_type': family,
      'vocab_size': None if embedding is None else int(embedding.shape[1]),
      'hidden_size': field(f'{family}.embedding_length'),
      'intermediate_size': field(f'{family}.feed_forward_length'),
      'num_hidden_layers': field(f'{family}.block_count'),
      'num_attention_heads': heads,
      'num_key_value_heads': kv_heads,
      'head_dim': field(f'{family}.attention.key_length'),
      'rope_theta': field(f'{family}.rope.freq_base', 10_000.0),
      'rope_scaling': None if scaling == 'none' else {'rope_type': scaling},
      'rms_norm_eps': field(f'{family}.attention.layer_norm_rms_epsilon'),
      'tie_word_embeddings': 'output.weight' not in stored,
    }
  )
  rows = {'attn_q': heads, 'attn_k': kv_heads}

  def read(name: str) -> Callable[[], np.ndarray]:
    def dequantise() -> np.ndarray:
      tensor = stored[name]
      array = gguf.dequantize(tensor.data, tensor.tensor_type)
      kind = name.split('.')[-2]
      return _halves(array, rows[kind]) if kind in rows else array

    return dequantise

  to_hf = {theirs: hf for hf, theirs, _ in _TOP.values()}
  for i in range(config.num_layers):
    to_hf |= {
      f'blk.{i}.{theirs}.weight': f'model.layers.{i}.{hf}.weight'
      for hf, theirs, _ in _BLOCK.values()
    }
  return Checkpoint(
    config,
    {to_hf.get(n, n): read(n) for n in stored},
    {
      to_hf.get(n, n): tuple(int(size) for size in tensor.shape[::-1])
      for n, tensor in stored.items()
    },
  )


def _halves(kernel_OxI: np.ndarray, heads: int) -> np.ndarray:
  """GGUF interleaves a head's rotary pairs; ours are its two halves."""
  out, inner = kernel_OxI.shape
  pairs = kernel_OxI.reshape(heads, out // heads // 2, 2, inner)
  return pairs.swapaxes(1, 2).reshape(out, inner)
