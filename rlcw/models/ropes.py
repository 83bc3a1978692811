"""Rotary position embeddings, as `config.json` describes them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlcw.models import fields


@dataclasses.dataclass(frozen=True)
class RopeConfig:
  """Rotary position embedding (arXiv 2104.09864) and its context scaling.

  `linear` divides all frequencies by `factor`.  `llama3` and `yarn` keep those
  of pairs that make more than `high_factor` full turns over the original
  length, divide those of pairs with fewer than `low_factor`, and interpolate in
  between.  `longrope` divides each by its own number.  `proportional` divides
  all by `factor`, and leaves the last pairs of a head as they are.
  """

  theta: float = 10_000.0
  # default | linear | llama3 | yarn | longrope | proportional
  kind: str = 'default'
  factor: float = 1.0
  low_factor: float = 1.0
  high_factor: float = 4.0
  original_length: int = 8192
  truncate: bool = True  # yarn: interpolates between whole pairs
  divisors: tuple[float, ...] = ()  # longrope: of each pair
  # Of a head's channels, its first ones, that rotate; with `proportional`, of
  # its pairs.
  fraction: float = 1.0
  magnitude: float = 1.0  # of rotated queries and keys
  # Queries at a position p are multiplied by 1 + query_growth · log(1 + ⌊p /
  # original_length⌋), as in Llama 4 and Ministral 3.
  query_growth: float = 0.0
  # Longest text that has these frequencies; a longer one would need others,
  # from its first token on.
  limit: int | None = None

  def channels(self, head_dim: int) -> int:
    """Number of channels of a head that rotate, before pairs are completed."""
    whole = self.kind == 'proportional'
    return head_dim if whole else int(head_dim * self.fraction)


PLAIN = RopeConfig()

# Fields that each type requires.
_REQUIRED: dict[str, tuple[str, ...]] = {
  'default': (),
  'linear': ('factor',),
  'dynamic': ('factor',),
  'llama3': ('factor', 'low_freq_factor', 'high_freq_factor'),
  'yarn': ('factor',),
  'longrope': ('short_factor', 'long_factor'),
  'proportional': (),
}


# Fields that few families read, and the value that changes nothing.
_EXTRAS = {'partial_rotary_factor': 1.0, 'llama_4_scaling_beta': 0.0}


def read(
  config: Mapping[str, Any],
  theta: float,
  local_theta: float | None,
  extras: Sequence[str] = (),
) -> tuple[RopeConfig, RopeConfig | None]:
  """Rotary settings of full and of sliding layers.

  Transformers 5 writes `rope_parameters`, nested by layer type where they
  differ; older files have `rope_theta`, `rope_scaling` and, for Gemma,
  `rope_local_base_freq`.

  Args:
    config: valid fields of a `config.json`.
    theta: of a file that has none.
    local_theta: of sliding layers, whose rope has no scaling; None where they
      have that of the full layers.
    extras: those of `_EXTRAS` that the family reads.

  Raises:
    ValueError: names the field, its value and the supported values.
  """
  parameters = _fields(config.get('rope_parameters', {}))
  scaling = _fields(config.get('rope_scaling', {}))
  nested = 'full_attention' in parameters or 'sliding_attention' in parameters
  full = parameters
  if nested:
    full = _fields(parameters.get('full_attention', {}))
  # A file may have both the old and the new fields, if they agree: whichever
  # of the two is given precedence, the result is the same.
  outside = 'rope_theta', 'partial_rotary_factor'
  old = {name: config[name] for name in outside if name in config}
  local = _fields(parameters.get('sliding_attention', {}))
  for name in _EXTRAS.keys() - extras:
    neutral = _EXTRAS[name]
    for part in (old, scaling, full, local):
      proportional = part.get('rope_type') == 'proportional'
      if proportional and name == 'partial_rotary_factor':
        continue
      if part.get(name, neutral) != neutral:
        raise ValueError(
          f'{name}={part[name]!r} is not supported; expected {neutral}'
        )
  rope = _rope(config, {**old, **scaling, **full}, theta)
  if rope != _rope(config, {**full, **scaling, **old}, theta):
    raise ValueError(
      f'rope_parameters={full!r} contradicts rope_scaling={scaling!r} with '
      + ' and '.join(f'{name}={config.get(name)!r}' for name in outside)
      + '; expected one of them, or both alike'
    )
  if nested:
    return rope, _rope(config, local, local_theta or 10_000.0)
  return rope, None if local_theta is None else RopeConfig(local_theta)


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
  """Valid fields of a rope; `type`, the older name, becomes `rope_type`."""
  found = fields.valid(given)
  kind = found.pop('type', None)
  if kind is not None and found.setdefault('rope_type', kind) != kind:
    raise ValueError(
      f'type={kind!r} contradicts rope_type={found["rope_type"]!r}'
    )
  return found


def _rope(
  config: Mapping[str, Any], parameters: Mapping[str, Any], theta: float
) -> RopeConfig:
  """Rotary settings of one layer type; `theta` where the file has none."""
  kind = parameters.get('rope_type', 'default')
  if kind in ('su', 'yarn') and 'short_factor' in parameters:
    kind = 'longrope'  # its names in early files of Phi-3
  if kind not in _REQUIRED:
    raise ValueError(
      f'rope type {kind!r} is not supported; expected one of {(*_REQUIRED,)}'
    )
  missing = [field for field in _REQUIRED[kind] if field not in parameters]
  greatest = config.get('max_position_embeddings', 0)
  # Outside of the rope's own fields it takes precedence, as in transformers.
  length = (
    config.get('original_max_position_embeddings')
    or parameters.get('original_max_position_embeddings')
    or greatest
  )
  if kind in ('llama3', 'yarn', 'longrope') and not length:
    missing.append('original_max_position_embeddings')
  if kind == 'dynamic' and not greatest:
    missing.append('max_position_embeddings')
  if missing:
    raise ValueError(f'rope type {kind!r} lacks {missing}')
  rope = RopeConfig(
    parameters.get('rope_theta', theta),
    fraction=parameters.get('partial_rotary_factor', 1.0),
  )
  growth = parameters.get('llama_4_scaling_beta', 0.0)
  if growth:
    rope = dataclasses.replace(
      rope, query_growth=growth, original_length=length
    )
  if kind == 'proportional':
    factor = parameters.get('factor', 1.0)
    return dataclasses.replace(rope, kind=kind, factor=factor)
  if kind == 'linear':
    return dataclasses.replace(rope, kind=kind, factor=parameters['factor'])
  if kind == 'dynamic':
    # It changes the frequencies of texts beyond the model's context alone.
    return dataclasses.replace(rope, limit=greatest)
  if kind == 'llama3':
    return _banded(rope, kind, parameters, length)
  if kind == 'yarn':
    return _yarn(rope, parameters, length)
  if kind == 'longrope':
    return _longrope(rope, parameters, length, greatest)
  return rope


def _banded(
  rope: RopeConfig, kind: str, parameters: Mapping[str, Any], length: int
) -> RopeConfig:
  """Llama 3's scaling, or YaRN's with its numbers under Llama 3's names."""
  low, high = parameters['low_freq_factor'], parameters['high_freq_factor']
  if not low < high:
    names = 'low_freq_factor', 'high_freq_factor'
    if kind == 'yarn':
      names = 'beta_slow', 'beta_fast'
    raise ValueError(f'{names[0]}={low} must be below {names[1]}={high}')
  return dataclasses.replace(
    rope,
    kind=kind,
    factor=parameters['factor'],
    low_factor=low,
    high_factor=high,
    original_length=length,
  )


def _yarn(
  rope: RopeConfig, parameters: Mapping[str, Any], length: int
) -> RopeConfig:
  """YaRN (arXiv 2309.00071)."""
  factor = parameters['factor']
  if rope.theta <= 1:
    raise ValueError(f'rope_theta={rope.theta} must be above 1 with YaRN')
  bands = {
    'factor': factor,
    'low_freq_factor': parameters.get('beta_slow') or 1.0,
    'high_freq_factor': parameters.get('beta_fast') or 32.0,
  }

  def magnitude(slope: float) -> float:
    return 0.1 * slope * math.log(factor) + 1.0 if factor > 1 else 1.0

  own = parameters.get('attention_factor')
  if own is None:
    top, base = parameters.get('mscale'), parameters.get('mscale_all_dim')
    own = magnitude(top) / magnitude(base) if top and base else magnitude(1.0)
  return dataclasses.replace(
    _banded(rope, 'yarn', bands, length),
    magnitude=own,
    truncate=parameters.get('truncate', True),
  )


def _longrope(
  rope: RopeConfig, parameters: Mapping[str, Any], length: int, greatest: int
) -> RopeConfig:
  """LongRoPE (arXiv 2402.13753) of texts up to the original length.

  Longer ones have `long_factor` from their first token on.  The replies of a
  group share the keys of their brief, so these cannot depend on a reply's
  length.
  """
  if length < 2 or not (greatest or parameters.get('factor')):
    raise ValueError(
      f'rope type longrope has original_max_position_embeddings={length} and '
      f'max_position_embeddings={greatest}; expected at least 2, or a factor'
    )
  factor = parameters.get('factor') or greatest / length
  own = parameters.get('attention_factor')
  if own is None:
    own = 1.0
    if factor > 1:
      own = math.sqrt(1 + math.log(factor) / math.log(length))
  return dataclasses.replace(
    rope,
    kind='longrope',
    divisors=tuple(map(float, parameters['short_factor'])),
    magnitude=own,
    original_length=length,
    limit=length,
  )
