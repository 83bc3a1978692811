"""Rotary settings of a GGUF file: header fields, and tables of divisors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlcw.models.attention import frequencies
from rlcw.models.families import FAMILIES
from rlcw.models.gguf_header import NUMBER, Header
from rlcw.models.ropes import RopeConfig

# What rotary frequencies are divided by, each `[H / 2]`.
Tables = Mapping[str, np.ndarray]
_FREQS = 'rope_freqs.weight'
_SHORT, _LONG = 'rope_factors_short.weight', 'rope_factors_long.weight'
TABLES = {_FREQS, _SHORT, _LONG}


def read(
  header: Header, config: Mapping[str, Any], tables: Tables
) -> dict[str, Any]:
  """Rotary settings in the older form, with `rope_scaling`."""
  theta = header.get('rope.freq_base', NUMBER, 10_000.0)
  head_dim = head_dim_of(header, config)
  rotary = header.get('rope.dimension_count', int, head_dim)
  partial = None
  if rotary != head_dim:
    extras = FAMILIES[config['model_type']].rope_extras
    if 'partial_rotary_factor' not in extras:
      expected = f'{head_dim}, the head dimension'
      raise header.error('rope.dimension_count', rotary, expected)
    partial = rotary / max(head_dim, 1)
  kind, scaling = scaling_of(header), None
  if tables and kind not in ('none', 'longrope'):
    expected = "'none' beside a table of frequencies"
    raise header.error('rope.scaling.type', kind, expected)
  if _FREQS in tables:
    scaling = _llama3(header.file, tables[_FREQS], theta, head_dim)
  elif _SHORT in tables or kind == 'longrope':
    scaling = _longrope(header, tables)
  elif kind == 'yarn':
    scaling = _yarn(header)
  elif kind != 'none':
    older = header.get('rope.scale_linear', NUMBER, None)
    factor = header.get('rope.scaling.factor', NUMBER, older)
    scaling = {'rope_type': kind, 'factor': factor}
  return {
    'rope_theta': theta,
    'rope_scaling': scaling,
    'partial_rotary_factor': partial,
  }


def _longrope(header: Header, tables: Tables) -> dict[str, Any]:
  if not {_SHORT, _LONG} <= tables.keys():
    raise ValueError(
      f'{header.file}: {_SHORT} or {_LONG} is missing; expected both'
    )
  return {
    'rope_type': 'longrope',
    'short_factor': tables[_SHORT].tolist(),
    'long_factor': tables[_LONG].tolist(),
    'attention_factor': header.get('rope.scaling.attn_factor', NUMBER, None),
    'original_max_position_embeddings': header.get(
      'rope.scaling.original_context_length', int
    ),
  }


def scaling_of(header: Header) -> str:
  key = 'rope.scaling.type'
  kind = header.get(key, str, 'none')
  # Of older files, which have no type.
  if header.get('rope.scale_linear', NUMBER, 1.0) not in (0, 1):
    return 'linear'
  factor = header.get('rope.scaling.factor', NUMBER, 1.0)
  if kind == 'none' and factor not in (0, 1):
    raise header.error(key, kind, f'a type, as there is a factor of {factor}')
  return kind


def head_dim_of(header: Header, config: Mapping[str, Any]) -> int:
  shared = config['hidden_size'] // max(config['num_attention_heads'], 1)
  return header.get('attention.key_length', int, shared)


# In the header: field of `rope_scaling`.
_YARN = {
  'factor': 'factor',
  'yarn_attn_factor': 'attention_factor',
  'yarn_beta_fast': 'beta_fast',
  'yarn_beta_slow': 'beta_slow',
}


def _yarn(header: Header) -> dict[str, Any]:
  found: dict[str, Any] = {'rope_type': 'yarn'}
  length = header.get('rope.scaling.original_context_length', int)
  found['original_max_position_embeddings'] = length
  for key, field in _YARN.items():
    value = header.get(f'rope.scaling.{key}', NUMBER, None)
    if value is not None:
      found[field] = value
  # 1 where the length of rotated queries and keys is left as it is, 0 where it
  # grows with the factor.
  slope = header.get('rope.scaling.yarn_log_multiplier', NUMBER, None)
  if slope is not None:
    found |= {'mscale': 1.0, 'mscale_all_dim': slope}
  return found


def _llama3(
  file: Path, divisor_h: np.ndarray, theta: float, head_dim: int
) -> dict[str, Any]:
  """Recovers Llama 3's `rope_scaling` from GGUF's table of divisors `[H / 2]`.

  All published models have the same frequency bands, so the factor, which is
  the largest divisor, determines the whole table.

  Raises:
    ValueError: the table differs from the one that the factor gives.
  """
  rope = RopeConfig(theta, 'llama3', float(divisor_h.max(initial=1.0)))
  fits = divisor_h.shape == (head_dim // 2,)
  if fits:
    plain_h = frequencies(RopeConfig(theta), head_dim)
    expected_h = plain_h / frequencies(rope, head_dim)
    fits = np.allclose(divisor_h, expected_h, rtol=1e-3)
  if not fits:
    raise ValueError(
      f'{file}: rope_freqs.weight is not the table of Llama 3 with factor '
      f'{rope.factor} and head_dim={head_dim}; expected that table'
    )
  return {
    'rope_type': 'llama3',
    'factor': rope.factor,
    'low_freq_factor': rope.low_factor,
    'high_freq_factor': rope.high_factor,
    'original_max_position_embeddings': rope.original_length,
  }


def proportional_share(file: Path, tables: Tables, head_dim: int) -> float:
  """Share of a head's pairs that rotate: their divisor is 1, of others huge."""
  table = tables.get(_FREQS, np.ones(0))
  turning = int((table == 1).sum())
  fits = table.shape == (head_dim // 2,) and turning > 0
  # Not `any(… < 1e20)`, which NaN passes.
  if not fits or not np.all(table[turning:] >= 1e20):
    raise ValueError(
      f'{file}: rope_freqs.weight is not the table of Gemma 4 with '
      f'head_dim={head_dim}; expected ones, and then numbers above 1e20'
    )
  return turning / len(table)
