"""Weights in and out, by one table of names.

The table says where each of our parameters stands in a checkpoint.  Our
kernels are `[out, in]`, as in Hugging Face's files, so nothing is transposed;
blocks are stacked over layers.  Which rows a model needs, and their shapes,
follow from the model itself.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import spmd
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, Sharding
from safetensors.numpy import save_file

from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Decoder, Params, as_dtype
from rlcw.models.formats import INDEX, Source, open_source
from rlcw.runtime.mesh import TABLES, replicated

# our path: (Hugging Face name, GGUF name)
_TOP = {
  'embed': ('model.embed_tokens.weight', 'token_embd.weight'),
  'head': ('lm_head.weight', 'output.weight'),
  'final_norm/scale': ('model.norm.weight', 'output_norm.weight'),
  'score': ('score.weight', 'cls.output.weight'),
}
_BLOCK = {
  'attention_norm/scale': ('input_layernorm.weight', 'attn_norm.weight'),
  'query/kernel': ('self_attn.q_proj.weight', 'attn_q.weight'),
  'query/bias': ('self_attn.q_proj.bias', 'attn_q.bias'),
  'query_norm/scale': ('self_attn.q_norm.weight', 'attn_q_norm.weight'),
  'key/kernel': ('self_attn.k_proj.weight', 'attn_k.weight'),
  'key/bias': ('self_attn.k_proj.bias', 'attn_k.bias'),
  'key_norm/scale': ('self_attn.k_norm.weight', 'attn_k_norm.weight'),
  'value/kernel': ('self_attn.v_proj.weight', 'attn_v.weight'),
  'value/bias': ('self_attn.v_proj.bias', 'attn_v.bias'),
  'output/kernel': ('self_attn.o_proj.weight', 'attn_output.weight'),
  'mlp_norm/scale': ('post_attention_layernorm.weight', 'ffn_norm.weight'),
  'gate/kernel': ('mlp.gate_proj.weight', 'ffn_gate.weight'),
  'up/kernel': ('mlp.up_proj.weight', 'ffn_up.weight'),
  'down/kernel': ('mlp.down_proj.weight', 'ffn_down.weight'),
}
# Gemma 3 calls a norm after attention what others call the one before the MLP.
_SANDWICH = {
  'attention_post_norm/scale': (
    'post_attention_layernorm.weight',
    'post_attention_norm.weight',
  ),
  'mlp_norm/scale': ('pre_feedforward_layernorm.weight', 'ffn_norm.weight'),
  'mlp_post_norm/scale': (
    'post_feedforward_layernorm.weight',
    'post_ffw_norm.weight',
  ),
}
DTYPES = ('float32', 'bfloat16')
_LAYER = {'hf': 'model.layers.{}.', 'gguf': 'blk.{}.'}


def names(config: ModelConfig, path: str, format: str = 'hf') -> list[str]:
  """What a checkpoint calls one of our parameters, a name for each layer."""
  column = ('hf', 'gguf').index(format)
  if not path.startswith('blocks/'):
    return [_TOP[path][column]]
  rows = _BLOCK | _SANDWICH if config.sandwich_norms else _BLOCK
  name = rows[path.removeprefix('blocks/')][column]
  layer = _LAYER[format]
  return [layer.format(i) + name for i in range(config.num_layers)]


def _flat(tree: Params) -> dict[str, Any]:
  """A tree's leaves by their paths, as in `blocks/query/kernel`."""
  return flatten_dict(tree, sep='/')  # pyright: ignore


def load(
  model: str | Path, mesh: Mesh | None = None, dtype: str = 'float32'
) -> tuple[ModelConfig, Params]:
  """Loads a language model.

  Args:
    model: a GGUF file, a folder with `config.json` and safetensors, or a Hub
      id.
    mesh: where the parameters go, each device getting its shard alone; NumPy
      arrays where `None`.
    dtype: of the parameters.

  Returns:
    The configuration, and the parameters, blocks stacked.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: it is damaged or not supported; or all missing, unknown and
      wrong-shaped tensors, in one message.
  """
  source = open_source(model)
  config = source.model_config()
  shapes = _flat(abstract_params(config))
  return config, _read(source, config, shapes, mesh, dtype)


def load_classifier(
  model: str | Path, mesh: Mesh | None = None, dtype: str = 'float32'
) -> tuple[ModelConfig, Params, np.ndarray]:
  """Loads a reward model: `AutoModelForSequenceClassification`, one label.

  Returns:
    The configuration, the parameters of its decoder, and the weight `[D]`
    that its last hidden state is multiplied with.

  Raises:
    FileNotFoundError, ValueError: as `load`.
  """
  source = open_source(model)
  # It has no language-model head, so none is to be looked for.
  config = dataclasses.replace(source.model_config(), tied_head=True)
  shapes = _flat(abstract_params(config))
  shapes['score'] = jax.ShapeDtypeStruct((1, config.model_dim), dtype)
  params = _read(source, config, shapes, mesh, dtype)
  return config, params, np.asarray(params.pop('score'))[0]


def _read(
  source: Source,
  config: ModelConfig,
  shapes: dict[str, Any],
  mesh: Mesh | None,
  dtype: str,
) -> Params:
  """Checks every tensor's name and shape, then reads them one at a time."""
  rows = {path: names(config, path, source.format) for path in shapes}
  wanted = {}
  for path, found in rows.items():
    stacked = path.startswith('blocks/')
    wanted |= dict.fromkeys(found, shapes[path].shape[stacked:])
  held = dict(source.shapes)
  if config.tied_head and 'score' not in shapes:
    _drop_second_head(source, held)
  errors = [f'missing: {name}' for name in sorted(wanted.keys() - held)]
  errors += [f'unknown: {name}' for name in sorted(held.keys() - wanted)]
  errors += [
    f'{name}: shape {held[name]} where {wanted[name]} is expected'
    for name in sorted(wanted.keys() & held)
    if held[name] != wanted[name]
  ]
  if errors:
    most = 50
    listed = errors[:most] + [f'and {len(errors) - most} more'] * (
      len(errors) > most
    )
    raise ValueError(
      f'{source.path} does not fit the model:\n  ' + '\n  '.join(listed)
    )
  places: dict[str, Any] = {}
  if mesh is not None:
    places = _flat(param_shardings(config, mesh))
    places['score'] = replicated(mesh)
  params = {
    path: _assemble(
      (source.read(name) for name in found),
      shapes[path].shape,
      path.startswith('blocks/'),
      dtype,
      places.get(path),
    )
    for path, found in rows.items()
  }
  return unflatten_dict(params, sep='/')


def _drop_second_head(source: Source, held: dict[str, Any]) -> None:
  """Some exporters write the tied head a second time."""
  embed, head = _TOP['embed'][0], _TOP['head'][0]
  if source.format == 'gguf' or head not in held or embed not in held:
    return
  if not np.array_equal(source.read(head), source.read(embed)):
    raise ValueError(
      f'{source.path}: tie_word_embeddings is true, but {head} is not {embed}'
    )
  del held[head]


def _assemble(
  tensors: Iterator[np.ndarray],
  shape: tuple[int, ...],
  stacked: bool,
  dtype: str,
  place: Sharding | None,
) -> Any:
  """One parameter from its tensors, of which one at a time is in memory."""

  def key(index: tuple[slice, ...]) -> tuple:
    return tuple((part.start, part.stop) for part in index)

  whole = (slice(None),) * len(shape)
  indices: Any = [whole]
  if place is not None:
    indices = place.addressable_devices_indices_map(shape).values()
  shards: dict[tuple, tuple[tuple[slice, ...], np.ndarray]] = {}
  for index in indices:
    sizes = [
      len(range(*part.indices(size)))
      for part, size in zip(index, shape, strict=True)
    ]
    if key(index) not in shards:
      shards[key(index)] = (index, _aligned(sizes, dtype))
  for layer, tensor in enumerate(tensors):
    for index, shard in shards.values():
      if stacked:  # layers are never split over devices
        shard[layer] = tensor[index[1:]]
      else:
        shard[...] = tensor[index]
  if place is None:
    return shards[key(whole)][1]
  return jax.make_array_from_callback(
    shape,
    place,
    lambda index: shards[key(index)][1],  # pyright: ignore
  )


def _aligned(sizes: list[int], dtype: str) -> np.ndarray:
  """An empty array that JAX on CPU takes over rather than copies."""
  boundary, size = 64, math.prod(sizes) * np.dtype(dtype).itemsize
  raw = np.empty(size + boundary, np.uint8)
  start = -raw.ctypes.data % boundary
  return raw[start : start + size].view(dtype).reshape(sizes)


def save(
  config: ModelConfig,
  params: Params,
  folder: Path,
  dtype: str,
  max_shard_bytes: int = 5 * 2**30,
) -> None:
  """Writes safetensors under Hugging Face's names, with an index if several.

  Args:
    config: of the model.
    params: without adapters; with a `score` `[1, D]` for a reward model.
    folder: where `config.json` is, or goes.
    dtype: `float32`, or `bfloat16` which holds half of the bits.
    max_shard_bytes: of a file; one file is in memory at a time.
  """
  leaves = [
    (name, leaf, layer if path.startswith('blocks/') else ...)
    for path, leaf in _flat(params).items()
    for layer, name in enumerate(names(config, path))
  ]
  width, total = np.dtype(dtype).itemsize, 0
  shards: list[list[Any]] = [[]]
  held = 0
  for name, leaf, layer in leaves:
    size = width * int(np.prod(leaf.shape if layer is ... else leaf.shape[1:]))
    if shards[-1] and held + size > max_shard_bytes:
      shards.append([])
      held = 0
    shards[-1].append((name, leaf, layer))
    held, total = held + size, total + size
  where = {}
  for number, shard in enumerate(shards, 1):
    file = f'model-{number:05d}-of-{len(shards):05d}.safetensors'
    file = file if len(shards) > 1 else 'model.safetensors'
    tensors = {name: np.asarray(leaf[at], dtype) for name, leaf, at in shard}
    save_file(tensors, folder / file, {'format': 'pt'})
    where |= dict.fromkeys(tensors, file)
  if len(shards) > 1:
    index = {'metadata': {'total_size': total}, 'weight_map': where}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))


def init_params(config: ModelConfig, key: jax.Array) -> Params:
  """Random parameters, each boxed with the logical names of its axes."""
  return Decoder(config).init(key, jnp.zeros((1, 1, 1), jnp.int32))['params']


def abstract_params(config: ModelConfig) -> Params:
  """The shape of every parameter, found without making one."""
  boxed = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  return nn.unbox(boxed)


@functools.cache  # every step asks, and to find out is to trace the model
def param_shardings(
  config: ModelConfig, mesh: Mesh, table: str = 'train'
) -> Params:
  """The sharding of every parameter by one of `axes.TABLES`."""
  boxed = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  specs = nn.get_partition_spec(boxed)
  return spmd.logical_to_mesh_sharding(
    specs, mesh, tuple(TABLES[table].items())
  )


def for_rollout(
  config: ModelConfig, params: Params, mesh: Mesh, table: str
) -> Params:
  """The weights as a rollout reads them: in its dtype, split by its table.

  What is so already is not copied.
  """
  places = param_shardings(config, mesh, table)
  return jax.device_put(as_dtype(params, config.dtype), places)


def in_memory(params: Params, kind: str) -> Params:
  """The weights in a memory of their devices' hosts, or of the devices.

  Args:
    params: of a model.
    kind: `pinned_host`, or `device`.  What is there already is not copied.
  """
  places = jax.tree.map(lambda a: a.sharding.with_memory_kind(kind), params)
  return jax.device_put(params, places)
