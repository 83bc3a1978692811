"""Headers of GGUF files whose layers differ: read, or refused by the field."""

import dataclasses
import operator
import pathlib
from collections.abc import Callable
from typing import Any

import checkpoints
import gguf
import numpy as np
import pytest

from rlcw.models import weights

PATTERN = 'attention.sliding_window_pattern'
KV, WIDTH = 'attention.head_count_kv', 'feed_forward_length'
SCALING = 'rope.scaling.type'
Edit = Callable[[gguf.GGUFWriter, checkpoints.Tensors], None]


def field(key: str, value: Any) -> Edit:
  """Writes a field of the architecture; None removes it."""

  def edit(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    fields = writer.kv_data[0]
    name = f'{fields["general.architecture"].value}.{key}'
    fields.pop(name, None)
    add: dict[type, Callable[..., None]] = {
      str: writer.add_string,
      bool: writer.add_bool,
      int: writer.add_uint64,
      float: writer.add_float32,
      list: writer.add_array,
    }
    if value is not None:
      add[type(value)](name, value)

  return edit


def divisors(values: list[float] | None) -> Edit:
  """Writes the table of rotary frequencies; None removes it."""

  def edit(_: gguf.GGUFWriter, tensors: checkpoints.Tensors) -> None:
    tensors.pop('rope_freqs.weight', None)
    if values is not None:
      tensors['rope_freqs.weight'] = np.array(values, np.float32)

  return edit


def without_long(_: gguf.GGUFWriter, tensors: checkpoints.Tensors) -> None:
  tensors.pop('rope_factors_long.weight')


def both(*edits: Edit) -> Edit:
  def edit(writer: gguf.GGUFWriter, tensors: checkpoints.Tensors) -> None:
    for each in edits:
      each(writer, tensors)

  return edit


NOT_ALIKE = 'expected the same of all layers of a kind'
NO_TABLE = 'rope_freqs.weight is not the table.*expected ones'
LARGE = 2**63


@pytest.mark.parametrize(
  ('family', 'edit', 'message'),
  [
    ('gemma4', field(KV, [2, 2]), rf'{KV}=\[2, 2\] .*expected 6 integers'),
    ('gemma4', field(KV, [2, 1, 1, 2, 2, 1]), f'{KV}=.*{NOT_ALIKE}'),
    ('gemma4', field(KV, [2, 2, 1, 2, 2, 2]), f'{KV}=.*{NOT_ALIKE}'),
    (
      'gemma4-small',
      field(WIDTH, [64, 64, 64, 192, 192, 192]),
      f'{WIDTH}=.*expected one width',
    ),
    (
      'gemma4-small',
      field(WIDTH, [64, 32, 64, 64, 64, 64]),
      f'{WIDTH}=.*expected one width',
    ),
    (
      'gemma4',
      field(PATTERN, [True, False]),
      f'{PATTERN}=.*expected true or false for 6 layers',
    ),
    (
      'gemma4',
      field(PATTERN, [1.0, 1.0, 0.0] * 2),
      f'{PATTERN}=.*expected true or false',
    ),
    ('gemma4', field(PATTERN, 0), f'{PATTERN}=0 .*expected at least 1'),
    ('gemma4', field('attention.shared_kv_layers', 6), '=6.*expected 0 to 5'),
    ('gemma4', field('attention.shared_kv_layers', LARGE), 'expected 0 to 5'),
    ('gemma4', divisors([1, 1e30, 1, 1e30, 1, 1, 1, 1]), NO_TABLE),
    ('gemma4', divisors([1, 1, 1, 1] + [np.nan] * 4), NO_TABLE),
    ('gemma4', divisors([1e30] * 8), NO_TABLE),
    ('gemma4', divisors([1, 1]), NO_TABLE),
    ('gemma4', divisors(None), NO_TABLE),
    (
      'gemma4',
      field(SCALING, 'linear'),
      f"{SCALING}='linear'.*expected 'none'",
    ),
    (
      'gemma4',
      field('rope.dimension_count', 4),
      'rope.dimension_count=4 .*expected 16',
    ),
    (
      'gemma4',
      field('rope.dimension_count_swa', 2),
      'rope.dimension_count_swa=2 .*expected 12',
    ),
    (
      'gemma4-small',
      field('embedding_length_per_layer_input', LARGE),
      'hidden_size_per_layer_input=9223372036854775808 is not an integer',
    ),
    (
      'olmo3',
      field(PATTERN, [1, 1, 2, 0]),
      f'{PATTERN}=.*expected true or false for 4 layers',
    ),
    (
      'gemma3',
      field(PATTERN, [1.0, 1.0, 0.0]),
      f'{PATTERN}=.*expected true or false',
    ),
    ('ministral3', field(SCALING, None), f"{SCALING}='none'.*a factor of 4"),
    (
      'ministral3',
      both(field(SCALING, None), field('rope.scaling.factor', None)),
      f"{SCALING}='none'.*expected 'yarn'",
    ),
    ('ministral3', field(SCALING, 'linear'), "='linear'.*expected 'yarn'"),
    ('ministral3', divisors([1] * 6), f"{SCALING}='yarn'.*beside a table"),
    ('llama', field(SCALING, 'bogus'), "rope type 'bogus' is not supported"),
    ('phi3', without_long, 'rope_factors_long.weight is missing'),
    ('llama', divisors([]), r'rope_freqs.weight: shape \(0,\)'),
  ],
)
def test_what_cannot_be_is_refused_by_name(
  family: str,
  edit: Edit,
  message: str,
  make_model: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  settings = {} if family != 'olmo3' else {'rope_parameters': None}
  theirs = make_model(family, **settings)
  path = checkpoints.write_gguf(tmp_path / 'x.gguf', theirs, edit)
  with pytest.raises(ValueError, match=r'x\.gguf: .*' + message):
    weights.load(path)


@pytest.mark.parametrize('value', ['many', [1, 2], float('inf')])
def test_the_number_of_shards_is_a_number(
  value: Any, make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  def edit(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    kinds = {str: writer.add_string, list: writer.add_array}
    kinds.get(type(value), writer.add_float32)('split.count', value)

  path = checkpoints.write_gguf(tmp_path / 'x.gguf', make_model('llama'), edit)
  with pytest.raises(ValueError, match=r'x\.gguf: split\.count='):
    weights.load(path)


@pytest.mark.parametrize(
  ('family', 'key', 'name'),
  [
    ('llama', 'rope.freq_base', 'rope.theta'),
    ('llama', 'attention.layer_norm_rms_epsilon', 'norm_eps'),
    ('ministral3', 'attention.temperature_scale', 'rope.query_growth'),
    ('granite', 'attention.scale', 'query_scale'),
  ],
)
def test_numbers_may_be_stored_as_large_integers(
  family: str,
  key: str,
  name: str,
  make_model: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  path = checkpoints.write_gguf(
    tmp_path / 'x.gguf', make_model(family), field(key, LARGE)
  )
  found = operator.attrgetter(name)(weights.load(path)[0])
  assert (found, type(found)) == (2.0**63, float)


def test_all_pairs_of_a_head_may_rotate(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  path = checkpoints.write_gguf(
    tmp_path / 'x.gguf', make_model('gemma4'), divisors([1] * 8)
  )
  rope = weights.load(path)[0].rope
  assert (rope.kind, rope.fraction) == ('proportional', 1.0)


def test_an_older_file_has_its_factor_in_another_field(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  path = checkpoints.write_gguf(
    tmp_path / 'x.gguf', make_model('llama'), field('rope.scale_linear', 4.0)
  )
  rope = weights.load(path)[0].rope
  assert (rope.kind, rope.factor) == ('linear', 4.0)


def test_factors_of_layers_are_optional(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  def drop(count: int) -> Edit:
    def edit(_: gguf.GGUFWriter, tensors: checkpoints.Tensors) -> None:
      found = [name for name in tensors if 'layer_output_scale' in name]
      for name in found[:count]:
        del tensors[name]

    return edit

  theirs = make_model('gemma4')
  path = checkpoints.write_gguf(tmp_path / 'x.gguf', theirs, drop(6))
  params = checkpoints.under_their_names(*weights.load(path))
  factors = {name: a for name, a in params.items() if 'layer_scalar' in name}
  assert len(factors) == 6 and all(a == 1 for a in factors.values())
  path = checkpoints.write_gguf(tmp_path / 'y.gguf', theirs, drop(1))
  with pytest.raises(ValueError, match='missing: blk.0.layer_output_scale'):
    weights.load(path)


def test_local_layers_of_olmo_3_have_their_own_theta(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  theirs = make_model('olmo3')  # whose local layers have 500
  path = checkpoints.write_gguf(
    tmp_path / 'x.gguf', theirs, field('rope.freq_base_swa', 500.0)
  )
  theirs.save_pretrained(tmp_path)
  ours, expected = (weights.load(each)[0] for each in (path, tmp_path))
  assert ours.local_rope == expected.local_rope
  assert ours.rope == dataclasses.replace(
    expected.rope, magnitude=ours.rope.magnitude
  )
  assert ours.rope.magnitude == pytest.approx(expected.rope.magnitude)


def test_yarn_of_a_llama_may_keep_the_length_of_queries(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  """As in files that were converted from Mistral's own format."""
  yarn = [
    field(SCALING, 'yarn'),
    field('rope.scaling.factor', 8.0),
    field('rope.scaling.original_context_length', 64),
  ]
  for slope, magnitude in ((None, 1.2079), (0.0, 1.2079), (1.0, 1.0)):
    edit = both(*yarn, field('rope.scaling.yarn_log_multiplier', slope))
    path = checkpoints.write_gguf(
      tmp_path / 'x.gguf', make_model('llama'), edit
    )
    rope = weights.load(path)[0].rope
    assert rope.kind == 'yarn'
    assert rope.magnitude == pytest.approx(magnitude, abs=1e-4)


def test_mistral_small_computes_what_a_llama_does(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  def rename(writer: gguf.GGUFWriter, _: checkpoints.Tensors) -> None:
    writer.kv_data[0] = {
      key.replace('llama.', 'mistral3.'): value
      for key, value in writer.kv_data[0].items()
    }
    writer.kv_data[0]['general.architecture'].value = 'mistral3'

  theirs = make_model('llama')
  expected = weights.load(checkpoints.write_gguf(tmp_path / 'a.gguf', theirs))
  path = checkpoints.write_gguf(tmp_path / 'b.gguf', theirs, rename)
  ours = weights.load(path)
  assert ours[0] == expected[0]
  checkpoints.assert_holds(ours, checkpoints.under_their_names(*expected))
