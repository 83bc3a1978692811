"""Loads, saves, initialises and shards weights.

`names` maps each of our parameters to its names in checkpoints.  Our kernels
are `[out, in]`, as in Hugging Face's files, so nothing is transposed; blocks
are stacked over layers.  The parameters of a model and their shapes follow from
tracing its initialisation.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen import spmd
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, Sharding
from safetensors import SafetensorError
from safetensors.numpy import save_file

from rlcw.models import stacks
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import LAYER_INPUTS, Decoder, Params, as_dtype
from rlcw.models.folders import INDEX, SINGLE, Source
from rlcw.models.formats import open_source
from rlcw.models.names import EMBED, HEAD, members, names, unread
from rlcw.runtime import files, processes
from rlcw.runtime.mesh import TABLES, replicated

DTYPES = ('float32', 'bfloat16')
# Most bytes of a file of an export, as in transformers.
SHARD_BYTES = 5 * 10**9
# Of TRL, OpenRLHF and others, and of transformers' classifiers.
_HEAD = re.compile(
  r'(model\.)?(v_head|value_head|score|classifier|reward_head|regression_head'
  r'|cls\.output)\b'
)


def _flat(tree: Params) -> dict[str, Any]:
  """Flattens a tree to a dict by paths such as `blocks/query/kernel`."""
  return flatten_dict(tree, sep='/')  # pyright: ignore


def load(
  model: str | Path,
  mesh: Mesh | None = None,
  dtype: str = 'float32',
  table: str = 'train',
  norms: str | None = None,
) -> tuple[ModelConfig, Params]:
  """Loads a language model.

  Args:
    model: a GGUF file, a folder with `config.json` and safetensors, or a Hub
      id.
    mesh: devices for the parameters, each of which gets only its own shard;
      `None` for NumPy arrays.
    dtype: of the parameters.
    table: of `runtime.mesh`, by which they are split over the mesh.
    norms: dtype of the scales of norms; `None` for `dtype`.

  Returns:
    The configuration, and the parameters, blocks stacked.

  Raises:
    FileNotFoundError: there is no such model.
    ValueError: it is damaged or not supported, or tensors do not fit: all
      missing, unknown and wrongly shaped ones, in one message.
  """
  source = open_source(model)
  config = source.model_config()
  shapes = _shapes(config, dtype, norms)
  return config, _read(source, config, shapes, mesh, table)


def load_classifier(
  model: str | Path,
  mesh: Mesh | None = None,
  dtype: str = 'float32',
  norms: str | None = None,
) -> tuple[ModelConfig, Params, np.ndarray]:
  """Loads a reward model: `AutoModelForSequenceClassification`, one label.

  Args:
    model: as in `load`, as are the others.
    mesh: see there.
    dtype: see there.
    norms: see there.

  Returns:
    The configuration, the parameters of its decoder, and the weight `[D]`
    of the score, a product with its last hidden state.

  Raises:
    FileNotFoundError, ValueError: as in `load`.
  """
  source = open_source(model)
  # A classifier has no language-model head: with `tied_head` none is expected.
  config = dataclasses.replace(source.model_config(), tied_head=True)
  shapes = _shapes(config, dtype, norms)
  shapes['score'] = jax.ShapeDtypeStruct((1, config.model_dim), 'float32')
  params = _read(source, config, shapes, mesh, 'train')
  return config, params, np.asarray(params.pop('score'))[0]


def _shapes(
  config: ModelConfig, dtype: str, norms: str | None
) -> dict[str, Any]:
  """Shape and dtype of each parameter that is to be read, by path."""
  return {
    path: jax.ShapeDtypeStruct(
      leaf.shape, (norms or dtype) if path.endswith('/scale') else dtype
    )
    for path, leaf in _flat(abstract_params(config)).items()
  }


def _read(
  source: Source,
  config: ModelConfig,
  shapes: dict[str, Any],
  mesh: Mesh | None,
  table: str,
) -> Params:
  """Checks every tensor's name and shape, then reads them one at a time."""
  tensor_names = {path: names(config, path, source.format) for path in shapes}
  expected = {}
  for path, layer_names in tensor_names.items():
    # Files have one tensor per layer, without our leading axis of layers.
    stacked = path.startswith('blocks/')
    rows, *rest = shapes[path].shape[stacked:]
    parts = members(config, path)
    if len(parts) > 1:
      rows = max(part.stop for part in parts.values())
    expected |= dict.fromkeys(layer_names, (rows, *rest))
  source = _with_factors(source, tensor_names)
  unused = unread(config, source.format)
  stored = {k: v for k, v in source.shapes.items() if k not in unused}
  if config.tied_head and 'score' not in shapes:
    _drop_duplicate_head(source, stored)
  for name in stored:
    if _HEAD.match(name) and name not in expected:
      raise ValueError(
        f'{source.path}: {name} is the head of a reward or value model; '
        + (
          'expected score.weight of one label'
          if 'score' in shapes
          else 'expected a language model'
        )
      )
  # An unknown tensor is an error too: ignoring a bias or norm that our decoder
  # lacks would silently give other logits.
  errors = [f'missing: {name}' for name in sorted(expected.keys() - stored)]
  errors += [f'unknown: {name}' for name in sorted(stored.keys() - expected)]
  errors += [
    f'{name}: shape {stored[name]}, expected {expected[name]}'
    for name in sorted(expected.keys() & stored)
    if stored[name] != expected[name]
  ]
  if errors:
    limit = 50
    listed = errors[:limit] + [f'and {len(errors) - limit} more'] * (
      len(errors) > limit
    )
    raise ValueError(
      f'{source.path} does not fit the model:\n  ' + '\n  '.join(listed)
    )
  shardings: dict[str, Any] = {}
  if mesh is not None:
    shardings = _flat(param_shardings(config, mesh, table))
    # Not a parameter of the decoder, and too small to split.
    shardings['score'] = replicated(mesh)
  # A generator of tensors, so that only one of them is in memory at a time.
  params = {
    path: _assemble(
      (
        (
          f'{source.path}: {name}',
          source.read(name)[members(config, path)[path]],
        )
        for name in layer_names
      ),
      shapes[path].shape,
      path.startswith('blocks/'),
      shapes[path].dtype,
      shardings.get(path),
    )
    for path, layer_names in tensor_names.items()
  }
  return unflatten_dict(params, sep='/')


def _with_factors(source: Source, names: dict[str, list[str]]) -> Source:
  """Adds the factors of layers to a checkpoint that has none: they are 1.

  Transformers begins with that, and llama.cpp needs none.

  Args:
    source: the checkpoint.
    names: of tensors, by the path of our parameter.
  """
  factors = {
    name
    for path, layer_names in names.items()
    if path.endswith('/layer_scale')
    for name in layer_names
  }
  if factors & source.shapes.keys():
    return source
  return source._replace(
    shapes={**source.shapes, **dict.fromkeys(factors, (1,))},
    read=lambda name: (
      np.ones(1, np.float32) if name in factors else source.read(name)
    ),
  )


def _drop_duplicate_head(source: Source, stored: dict[str, Any]) -> None:
  """Removes the copy of a tied head that some exporters write.

  Raises:
    ValueError: the head differs from the embedding.
  """
  if source.format == 'gguf' or {EMBED, HEAD} - stored.keys():
    return
  if not np.array_equal(source.read(HEAD), source.read(EMBED)):
    raise ValueError(
      f'{source.path}: tie_word_embeddings is true, but {HEAD} differs from '
      f'{EMBED}'
    )
  del stored[HEAD]


def _assemble(
  tensors: Iterator[tuple[str, np.ndarray]],
  shape: tuple[int, ...],
  stacked: bool,
  dtype: Any,
  sharding: Sharding | None,
) -> Any:
  """Builds one parameter from its tensors, one of which is in memory at a time.

  Args:
    tensors: one, or one per layer if `stacked`, each after its name.
    shape: of the parameter.
    stacked: if the first axis is that of layers.
    dtype: of the parameter.
    sharding: its place on the devices; `None` for a NumPy array.

  Raises:
    ValueError: a tensor's part for this process has values that are NaN or
      infinite, so that all that is computed would be NaN.
  """

  # Slices are not hashable before Python 3.12.
  def key(index: tuple[slice, ...]) -> tuple:
    return tuple((part.start, part.stop) for part in index)

  everything = (slice(None),) * len(shape)
  indices: Any = [everything]
  if sharding is not None:
    indices = sharding.addressable_devices_indices_map(shape).values()
  # Buffers for this process's shards only, one for all replicas of a shard.
  shards: dict[tuple, tuple[tuple[slice, ...], np.ndarray]] = {}
  for index in indices:
    sizes = [
      len(range(*part.indices(size)))
      for part, size in zip(index, shape, strict=True)
    ]
    if key(index) not in shards:
      shards[key(index)] = (index, _empty_aligned(sizes, dtype))
  for layer, (name, tensor) in enumerate(tensors):
    for index, shard in shards.values():
      # Layers are never split over devices, so each shard has a slice of every
      # layer.
      if stacked:
        part, index = shard[layer, ...], index[1:]  # a view, of scalars too
      else:
        part = shard
      part[...] = tensor[index]  # casts to the parameter's dtype
      _check_finite(part, name)
  if sharding is None:
    return shards[key(everything)][1]
  return jax.make_array_from_callback(
    shape,
    sharding,
    lambda index: shards[key(index)][1],  # pyright: ignore
  )


def _check_finite(values: np.ndarray, name: str) -> None:
  with np.errstate(over='ignore', invalid='ignore'):
    # NaN or infinite if one of the values is; quicker than a look at each.
    total = np.sum(values, dtype=np.float32)
  if not np.isfinite(total):
    raise ValueError(
      f'{name} has values that are NaN or infinite; expected an undamaged file'
    )


def _empty_aligned(sizes: list[int], dtype: Any) -> np.ndarray:
  """Returns an uninitialised array that JAX on a CPU uses without a copy.

  It does so only for buffers aligned to 64 bytes.
  """
  boundary, size = 64, math.prod(sizes) * np.dtype(dtype).itemsize
  # NumPy aligns to 16 bytes only: the array is an aligned part of a larger one.
  raw = np.empty(size + boundary, np.uint8)
  start = -raw.ctypes.data % boundary
  return raw[start : start + size].view(dtype).reshape(sizes)


def save(
  config: ModelConfig,
  params: Params,
  folder: Path,
  dtype: str,
  max_shard_bytes: int = SHARD_BYTES,
) -> None:
  """Writes safetensors under Hugging Face's names, with an index for shards.

  Tensors are fetched from the devices one by one.  All processes must call it
  together; process 0 writes.

  Args:
    config: of the model.
    params: without adapters; with a `score` `[1, D]` for a reward model.
    folder: that of `config.json`, which must exist.
    dtype: `float32` or `bfloat16`.
    max_shard_bytes: upper limit of a file, unless one tensor is larger; one
      file is in process 0's memory at a time.
  """
  flat = _flat(params)
  # (name, parameters, index of the tensor in them): a layer, or all of them.
  leaves = [
    (name, [flat[part] for part in parts], layer)
    for path in flat
    if path == next(iter(parts := members(config, path)))
    for layer, name in _indices(config, path)
  ]
  width, total = np.dtype(dtype).itemsize, 0
  shards: list[list[Any]] = [[]]
  shard_bytes = 0
  for name, parts, layer in leaves:
    size = width * sum(
      math.prod(leaf.shape if layer is ... else leaf.shape[1:])
      for leaf in parts
    )
    if shards[-1] and shard_bytes + size > max_shard_bytes:
      shards.append([])
      shard_bytes = 0
    shards[-1].append((name, parts, layer))
    shard_bytes, total = shard_bytes + size, total + size
  weight_map = {}
  for number, shard in enumerate(shards, 1):
    file = f'model-{number:05d}-of-{len(shards):05d}.safetensors'
    file = file if len(shards) > 1 else SINGLE
    _save_shard(shard, folder / file, dtype)
    weight_map |= dict.fromkeys((name for name, _, _ in shard), file)
  if not processes.is_primary_process():
    return
  # What an earlier save has left would be read in place of this one.
  if len(shards) == 1:
    (folder / INDEX).unlink(missing_ok=True)
  else:
    (folder / SINGLE).unlink(missing_ok=True)
    index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
    files.replace(folder / INDEX, json.dumps(index, indent=2, sort_keys=True))


def _indices(config: ModelConfig, path: str) -> list[tuple[Any, str]]:
  """Index in a parameter, and name, of each of its tensors."""
  found = names(config, path)
  return (
    [*enumerate(found)] if path.startswith('blocks/') else [(..., found[0])]
  )


def _save_shard(
  shard: Sequence[tuple[str, list[Any], Any]], file: Path, dtype: str
) -> None:
  """Writes one file of `save`.

  Args:
    shard: name, parameters and layer of each tensor; `...` for all of them.
    file: to be written.
    dtype: of the tensors.
  """
  tensors = {}
  for name, parts, layer in shard:
    arrays = [leaf if layer is ... else leaf[layer] for leaf in parts]
    # A collective: the other processes take part, and keep nothing.
    arrays = [
      processes.to_host(each) if isinstance(each, jax.Array) else each
      for each in arrays
    ]
    if processes.is_primary_process():
      arrays = [np.asarray(each, dtype) for each in arrays]
      whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
      tensors[name] = whole
  if tensors:
    # Transformers refuses files without this entry.
    save_tensors(tensors, file, {'format': 'pt'})


def save_tensors(
  tensors: dict[str, np.ndarray], file: Path, metadata: dict[str, str]
) -> None:
  """Writes a safetensors file whole or not at all.

  Raises:
    OSError: the file cannot be written.
  """
  with files.naming(file, SafetensorError), files.atomic(file) as partial:
    save_file(tensors, partial, metadata)


def init_params(config: ModelConfig, key: jax.Array) -> Params:
  """Random parameters, each boxed with the logical names of its axes."""
  # Shapes do not depend on the input, so one token suffices.
  return Decoder(config).init(key, jnp.zeros((1, 1, 1), jnp.int32))['params']


def abstract_params(config: ModelConfig) -> Params:
  """Shape and dtype of every parameter, without allocating any."""
  boxed = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  return nn.unbox(boxed)


# Cached because it traces the model and every step needs it.
@functools.cache
def param_shardings(
  config: ModelConfig, mesh: Mesh, table: str = 'train'
) -> Params:
  """Sharding of every parameter according to a table of `runtime.mesh`."""
  boxed = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
  specs = nn.get_partition_spec(boxed)
  return spmd.logical_to_mesh_sharding(
    specs, mesh, tuple(TABLES[table].items())
  )


def for_rollout(
  config: ModelConfig, params: Params, mesh: Mesh, table: str
) -> Params:
  """Casts and reshards weights for a rollout.

  Weights that already have that dtype and sharding are not copied.
  """
  shardings = param_shardings(config, mesh, table)
  return jax.device_put(as_dtype(params, config.dtype), shardings)


def moved(
  config: ModelConfig, params: Params, mesh: Mesh, table: str
) -> Params:
  """`for_rollout` of weights that nobody reads afterwards.

  Each array is deleted as soon as it is copied, so that little is in memory
  twice.
  """
  shardings, ready = _flat(param_shardings(config, mesh, table)), {}
  for path, leaf in _flat(params).items():
    dtype = leaf.dtype if path.endswith('/scale') else config.dtype
    ready[path] = jax.device_put(leaf.astype(dtype), shardings[path])
    if not _is_shared(leaf, ready[path]):
      leaf.delete()
  return unflatten_dict(ready, sep='/')


def copies(ready: Params, params: Params) -> list[jax.Array]:
  """Returns the weights that `for_rollout` has certainly copied.

  Args:
    ready: returned by `for_rollout`.
    params: given to it, perhaps with adapters that have been merged since.
  """
  before = dict(jax.tree.leaves_with_path(params))
  leaves = jax.tree.leaves_with_path(ready)
  return [now for path, now in leaves if not _is_shared(before[path], now)]


def _is_shared(was: jax.Array, now: jax.Array) -> bool:
  """Returns whether `for_rollout` may have left an array where it was.

  `device_put` may return another array object for the same memory.
  """
  same_place = was.sharding.is_equivalent_to(now.sharding, now.ndim)
  return was.dtype == now.dtype and same_place


def first_layers(config: ModelConfig, params: Params) -> Params:
  """Weights of the first layers alone, copied: those of `config`."""
  count, blocks = config.num_layers, params['blocks']
  # One by one, since weights that wait in the hosts' memory are moved first.
  if not config.mixed:
    blocks = jax.tree.map(lambda a: in_memory(a, 'device')[:count], blocks)
    return {**params, 'blocks': blocks}
  layers = stacks.split(jax.tree.map(lambda a: in_memory(a, 'device'), blocks))
  params = {**params, 'blocks': stacks.join(config, layers[:count])}
  if LAYER_INPUTS in params:
    width, inputs = count * config.layer_input_dim, params[LAYER_INPUTS]
    kernel = inputs['projection']['kernel'][:width]
    params[LAYER_INPUTS] = inputs | {
      'embed': inputs['embed'][:, :width],
      'projection': {'kernel': kernel},
    }
  return params


def in_memory(params: Params, kind: str) -> Params:
  """Moves weights to the memory of the hosts or of the devices.

  Args:
    params: of a model.
    kind: `pinned_host` or `device`; weights already there are not copied.
  """
  shardings = jax.tree.map(lambda a: a.sharding.with_memory_kind(kind), params)
  return jax.device_put(params, shardings)
