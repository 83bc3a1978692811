"""Decoder configuration: the shapes and switches of all model families.

`config_json` reads it from a checkpoint.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rlcw.models import config_json
from rlcw.models.ropes import PLAIN, RopeConfig

# Projections that can have a LoRA adapter, under their names in the parameters.
PROJECTIONS = ('query', 'key', 'value', 'output', 'gate', 'up', 'down')


@dataclasses.dataclass(frozen=True)
class LoraConfig:
  """Low-rank adapters `W + (alpha / rank) · B A` (arXiv 2106.09685).

  Raises:
    ValueError: no targets, an unknown target, or a rank below 1.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...]  # names from PROJECTIONS

  def __post_init__(self):
    unknown = [name for name in self.targets if name not in PROJECTIONS]
    if unknown or not self.targets:
      raise ValueError(
        f'lora.targets={self.targets!r}: {unknown or "nothing"} to adapt; '
        f'expected one or more of {PROJECTIONS}'
      )
    if self.rank < 1:
      raise ValueError(f'lora.rank={self.rank} must be at least 1')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shapes and constants of a decoder.

  Raises:
    ValueError: heads that do not divide into key/value heads, an odd head
      dimension, a fraction of it that cannot rotate, lists that do not fit the
      layers, or local layers without a window.
  """

  vocab_size: int
  model_dim: int
  mlp_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  rope: RopeConfig = PLAIN
  norm_eps: float = 1e-5
  tied_head: bool = True
  qkv_bias: bool = False
  qk_norm: bool = False
  qk_norm_joint: bool = False  # one norm over all heads, not one of each
  # Norms before and after each sublayer.
  pre_norms: bool = True
  post_norms: bool = False
  norm_offset: float = 0.0  # added to each norm's stored scale
  activation: str = 'silu'  # silu | gelu_tanh
  embed_scale: float = 1.0
  residual_scale: float = 1.0  # of the sublayers' results
  query_scale: float | None = None  # None: head_dim ** -0.5
  # Soft caps c · tanh(x / c) of attention scores and of logits.
  score_cap: float | None = None
  logit_cap: float | None = None
  logit_scale: float = 1.0  # before the cap
  # Keys visible to a query of a local layer, including its own.
  window: int | None = None
  # True: sliding window; (): all layers alike, local if there is a window.
  local_layers: tuple[bool, ...] = ()
  local_rope: RopeConfig | None = None  # of local layers; None: `rope`
  rope_layers: tuple[bool, ...] = ()  # False: no positions; (): all rotate
  # Heads of global layers; None: all layers are alike.
  global_head_dim: int | None = None
  global_kv_heads: int = 0
  # Values of global layers are their keys, before norm and rotation.
  keys_are_values: bool = False
  value_norm: bool = False  # a norm of each value, without a scale
  layer_scale: bool = False  # a stored factor of each layer's activations
  layer_input_dim: int = 0  # of further embeddings of a token for each layer
  # So many last layers have no keys and values of their own, but read those of
  # the last layer before them that is local or global like them.
  shared_layers: int = 0
  shared_mlp_dim: int = 0  # of these layers
  # Checkpoints have query, key and value in one tensor, and gate and up.
  fused: bool = False
  context: int | None = None  # most tokens of a text; None: not known
  dtype: str = 'float32'  # of activations; parameters keep their own dtype
  # True: the backward pass recomputes whole blocks.  False: it stores the
  # products with weights and recomputes the rest, attention scores included.
  remat: bool = False
  lora: LoraConfig | None = None
  attention: str = 'auto'  # auto: the platform's kernels | xla: no kernels

  def __post_init__(self):
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is not a multiple of '
        f'num_kv_heads={self.num_kv_heads}'
      )
    if self.head_dim < 2 or self.head_dim % 2:
      raise ValueError(
        f'head_dim={self.head_dim}; expected an even number of at least 2, '
        'because rotary embedding works on pairs'
      )
    rotary = self.rope.channels(self.head_dim)
    if self.mixed:
      self._check_layers()
    if not 2 <= rotary <= self.head_dim:
      raise ValueError(
        f'partial_rotary_factor={self.rope.fraction}: {rotary} of '
        f'{self.head_dim} channels of a head rotate; expected at least 2'
      )
    if len(self.rope.divisors) not in (0, -(-rotary // 2)):
      raise ValueError(
        f'short_factor has {len(self.rope.divisors)} entries; expected one for '
        f'each of {-(-rotary // 2)} rotary pairs'
      )
    for name in ('local_layers', 'rope_layers'):
      entries = len(getattr(self, name))
      if entries not in (0, self.num_layers):
        raise ValueError(
          f'{name} has {entries} entries for {self.num_layers} layers'
        )
    if any(self.local_layers) and not self.window:
      raise ValueError('sliding_attention layers need a sliding_window')

  def _check_layers(self) -> None:
    """Checks the shapes of layers that differ."""
    assert self.global_head_dim is not None
    if self.global_head_dim < 2 or self.global_head_dim % 2:
      raise ValueError(
        f'global_head_dim={self.global_head_dim}; expected an even number of '
        'at least 2'
      )
    if self.num_heads % self.global_kv_heads:
      raise ValueError(
        f'num_heads={self.num_heads} is not a multiple of the '
        f'{self.global_kv_heads} key/value heads of global layers'
      )
    own = self.num_layers - self.shared_layers
    kinds = [self.is_local(n) for n in range(self.num_layers)]
    if {*kinds[own:]} - {*kinds[: max(own, 0)]}:
      raise ValueError(
        f'num_kv_shared_layers={self.shared_layers} of {self.num_layers}: a '
        'layer among them has no earlier one of its type to read the keys of'
      )

  @property
  def mixed(self) -> bool:
    """True if layers differ in their shapes."""
    return self.global_head_dim is not None

  def is_local(self, layer: int) -> bool:
    """True if a layer is local, in a model with a list of them."""
    return bool(self.local_layers) and self.local_layers[layer]

  def layer(self, number: int) -> 'ModelConfig':
    """The configuration of a model whose layers are all like this one."""
    if self.global_head_dim is None:
      return self
    local = self.is_local(number)
    kv = self.num_kv_heads if local else self.global_kv_heads
    shared = number >= self.num_layers - self.shared_layers
    return dataclasses.replace(
      self,
      head_dim=self.head_dim if local else self.global_head_dim,
      num_kv_heads=kv,
      mlp_dim=self.shared_mlp_dim if shared else self.mlp_dim,
      keys_are_values=self.keys_are_values and not local,
      window=self.window if local else None,
      local_layers=(),
      global_head_dim=None,
    )

  def computed_in(self, dtype: str, attention: str) -> 'ModelConfig':
    """The configuration with another dtype and attention implementation."""
    return dataclasses.replace(self, dtype=dtype, attention=attention)

  def kv_layer(self, layer: int) -> int:
    """Number of the layer whose keys and values a layer reads."""
    own = self.num_layers - self.shared_layers
    if layer < own:
      return layer
    kind = self.is_local(layer)
    return next(n for n in reversed(range(own)) if self.is_local(n) == kind)

  def first_layers(self, count: int) -> 'ModelConfig':
    """The configuration of the first layers alone; 0 for all of them.

    Raises:
      ValueError: there are fewer layers.
    """
    if count > self.num_layers:
      raise ValueError(
        f'layers={count}: the model has {self.num_layers}; expected at most '
        'as many, or 0 for all'
      )
    return dataclasses.replace(
      self,
      num_layers=count or self.num_layers,
      local_layers=self.local_layers[: count or None],
      rope_layers=self.rope_layers[: count or None],
      shared_layers=max(self.shared_layers - self.num_layers + count, 0)
      if count
      else self.shared_layers,
    )

  @classmethod
  def from_hf(cls, config: Mapping[str, Any]) -> 'ModelConfig':
    """Reads the fields of a Hugging Face `config.json`.

    Raises:
      ValueError: names the field, its value and the supported values.
    """
    return cls(**config_json.model_fields(config))
