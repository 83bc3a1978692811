"""Layers of different shapes in one model, and further inputs of each layer.

Letters as in `decoder`; N layers, E channels of a layer's input.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rlcw.models.attention import Rope
from rlcw.models.attention_kernels import KV
from rlcw.models.blocks import LayerKind, ropes_of, scanned, with_remat
from rlcw.models.config import ModelConfig
from rlcw.models.layers import Linear, RMSNorm, weight
from rlcw.models.packing import Layout
from rlcw.models.stacks import Run, layer_of, runs

# Axis 0 of a run's first two inputs is the step of its scan.
_PER_LAYER = 0, 0, *[nn.broadcast] * 5


class Shared(NamedTuple):
  """Keys and values of a layer that later ones read."""

  own: KV  # [P, G, S, K, H]
  prefix: KV | None  # [P, S, K, H]


class Pattern(nn.Module):
  """One step of a run's scan: the layers of its pattern, one after another."""

  config: ModelConfig
  run: Run

  @nn.compact
  def __call__(
    self,
    x_PxGxLxD: jax.Array,
    prefixes: dict[str, KV] | None,
    inputs: dict[str, jax.Array] | None,
    ropes: tuple[Rope, Rope],
    prefix_length_P: jax.Array | None,
    shared: dict[bool, Shared],
    segment_PxGxL: jax.Array | None,
    layout: Layout | None,
  ) -> tuple[jax.Array, dict[str, KV]]:
    """Runs the pattern on activations; returns new ones, and keys and values.

    Trees of layers are by place in the pattern.
    """
    c, x, found = self.config, x_PxGxLxD, {}
    block = with_remat(c)
    for place in range(self.run.period):
      number, name = self.run.first + place, str(place)
      local = c.is_local(number)
      read = shared.get(local)
      prefix = prefixes[name] if prefixes else None
      x, kv = block(c.layer(number), name=name)(
        x,
        LayerKind(),
        ropes_of(c, number, ropes),
        prefix_length_P,
        read.prefix if read else prefix,
        segment_PxGxL,
        layout,
        shared=read.own if read else None,
        layer_input_PxGxLxE=inputs[name] if inputs else None,
      )
      if kv is not None:
        found[name] = kv
    return x, found


class MixedBlocks(nn.Module):
  """All blocks of a model whose layers differ: a scan for each run."""

  config: ModelConfig

  @nn.compact
  def __call__(
    self,
    x_PxGxLxD: jax.Array,
    input_NxPxGxLxE: jax.Array | None,
    ropes: tuple[Rope, Rope],
    prefix_length_P: jax.Array | None,
    prefix_kv: Any,
    segment_PxGxL: jax.Array | None,
    layout: Layout | None,
  ) -> tuple[jax.Array, Any]:
    """Runs the blocks; returns activations, and a tree of stacks of `KV`."""
    c, x, found = self.config, x_PxGxLxD, {}
    shared: dict[bool, Shared] = {}
    for run in runs(c):
      name = str(run.first)
      inputs = None
      if input_NxPxGxLxE is not None:
        inputs = {
          str(place): input_NxPxGxLxE[layers.start : layers.stop : layers.step]
          for place, layers in enumerate(map(run.stack, range(run.period)))
        }
      prefixes = prefix_kv and prefix_kv.get(name)
      steps = scanned(Pattern, run.repeats, _PER_LAYER)
      x, kv = steps(c, run, name=name)(
        x,
        prefixes,
        inputs,
        ropes,
        prefix_length_P,
        shared,
        segment_PxGxL,
        layout,
      )
      if not kv:
        continue
      found[name] = kv
      # The layers after this run read the last ones of it.
      for n in range(run.first, run.first + run.period * run.repeats):
        index, place = divmod(n - run.first, run.period)
        shared[c.is_local(n)] = Shared(
          layer_of(kv[str(place)], index),
          prefixes and layer_of(prefixes[str(place)], index),
        )
    return x, found


class LayerInputs(nn.Module):
  """A further embedding of each token for each layer (Gemma 4)."""

  config: ModelConfig

  @nn.compact
  def __call__(self, token_PxGxL: jax.Array, x_PxGxLxD: jax.Array) -> jax.Array:
    """Embeddings `[N, P, G, L, E]`: looked up, and projected from `x`."""
    c, dtype = self.config, x_PxGxLxD.dtype
    E = c.layer_input_dim
    width = c.num_layers * E
    table = weight(self, 'embed', ('vocab', 'embed'), (c.vocab_size, width))
    project = Linear(width, ('norm', 'embed'), name='projection')
    split = (*token_PxGxL.shape, c.num_layers, E)
    looked_up = table[token_PxGxL].astype(dtype) * jnp.asarray(E**0.5, dtype)
    projected = project(x_PxGxLxD) * jnp.asarray(c.model_dim**-0.5, dtype)
    projected = RMSNorm(c.norm_eps, name='norm')(projected.reshape(split))
    both = projected + looked_up.reshape(split)
    return jnp.moveaxis(both * jnp.asarray(2**-0.5, dtype), -2, 0)
