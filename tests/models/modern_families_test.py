"""Families beside those of `families_test`, each with its peculiarities on.

`pytest tests/models/modern_families_test.py -m '' -s` ends with a table of the
largest differences from transformers.
"""

import collections
import copy
import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import checkpoints
import forward_variants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from cases import quick
from conftest import FAMILIES, MODERN
from safetensors.numpy import load_file

from rlcw.models import decoder, families, layers, lora, weights
from rlcw.models.config import LoraConfig, ModelConfig
from rlcw.models.decoder import Params
from rlcw.models.ropes import RopeConfig
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling import moving
from rlcw.sampling.rollout import sample
from rlcw.sampling.samplers import Greedy
from rlcw.tasks import export

ROOT = pathlib.Path(__file__).resolve().parents[2]
_LENGTH = 24  # beyond every window (6) and every original length (8)


class Case(NamedTuple):
  """One family, as transformers made it and as it was loaded from disk."""

  family: str
  theirs: Any
  folder: pathlib.Path
  config: ModelConfig
  params: Params


@pytest.fixture(scope='module')
def table() -> Iterator[Callable[[str, str, float], float]]:
  """Notes a difference and gives it back; prints the largest in the end."""
  found: dict[str, dict[str, float]] = collections.defaultdict(dict)

  def note(family: str, check: str, difference: float) -> float:
    row = found[family]
    row[check] = max(row.get(check, 0.0), float(difference))
    return float(difference)

  yield note
  for family, row in found.items():
    print(f'\n{family:14}', *(f'{name} {n:.0e}' for name, n in row.items()))


@pytest.fixture(scope='module')
def case(
  request: pytest.FixtureRequest,
  make_model: Callable[..., Any],
  tmp_path_factory: pytest.TempPathFactory,
) -> Case:
  folder = tmp_path_factory.mktemp('family')
  theirs = make_model(request.param)
  theirs.save_pretrained(folder)
  return Case(request.param, theirs, folder, *weights.load(folder))


def _each(*fast: str) -> Any:
  return pytest.mark.parametrize('case', quick(MODERN, *fast), indirect=True)


def _tokens(rows: int = 2) -> np.ndarray:
  return np.random.default_rng(0).integers(2, 300, (rows, _LENGTH))


def _page() -> dict[str, float]:
  """Bound on the difference of logits that the page gives, by `model_type`."""
  page = (ROOT / 'docs' / 'models.md').read_text('utf-8')
  rows = re.findall(r'^\| `(\w+)` .*\| (\S+) \|$', page, re.M)
  return {name: float(bound) for name, bound in rows}


@pytest.mark.parametrize(
  'case',
  quick(
    FAMILIES | MODERN,
    *('ministral3', 'smollm3', 'olmo3', 'granite', 'phi3', 'gemma2'),
    'gemma4-small',
  ),
  indirect=True,
)
def test_logits_equal_transformers(case: Case, table: Any) -> None:
  theirs = forward_variants.torch_logits(case.theirs, _tokens())
  ours = forward_variants.logits(case.config, case.params, _tokens())
  assert np.abs(theirs).max() > 0.5
  difference = np.abs(ours - theirs).max()
  bound = _page()[case.theirs.config.model_type]
  assert table(case.family, 'logits', difference) <= bound <= 1e-4


_OFF: dict[str, dict[str, Any]] = {
  'qwen2-yarn': {'rope': RopeConfig()},
  'mistral': {'window': None},
  'ministral': {'window': None, 'local_layers': ()},
  'ministral3': {'rope': RopeConfig()},
  'smollm3': {'rope_layers': ()},
  'olmo2': {'norm_eps': 0.1},
  'olmo3': {'local_rope': None},
  'granite': {'residual_scale': 1.0},
  'phi3': {'window': None},
  'gemma2': {'score_cap': None},
  'gemma4': {'value_norm': False},
  'gemma4-small': {'layer_scale': False},
}


@pytest.mark.slow
@pytest.mark.parametrize('case', _OFF, indirect=True)
def test_a_peculiarity_changes_the_logits(case: Case) -> None:
  plain = dataclasses.replace(case.config, **_OFF[case.family])
  ours = forward_variants.logits(case.config, case.params, _tokens())
  without = forward_variants.logits(plain, case.params, _tokens())
  assert np.abs(ours - without).max() > 1e-3


@_each('phi3', 'gemma2')
def test_an_export_has_the_same_tensors(
  case: Case, tmp_path: pathlib.Path
) -> None:
  weights.save(case.config, case.params, tmp_path, 'float32')
  theirs = load_file(case.folder / 'model.safetensors')
  ours = load_file(tmp_path / 'model.safetensors')
  assert ours.keys() == theirs.keys()
  for name, expected in theirs.items():
    assert ours[name].tobytes() == expected.tobytes(), name
  checkpoints.assert_holds((case.config, case.params), theirs)


@_each()
def test_greedy_replies_equal_transformers(case: Case, table: Any) -> None:
  lengths, reply = [9, 14], 32
  case.theirs.generation_config.eos_token_id = None
  prompt_PxL = _tokens()[:, : max(lengths)]
  rollout = sample(
    case.params,
    prompt_PxL,
    np.array(lengths),
    np.arange(2),
    Greedy(),
    0,
    0,
    config=case.config,
    group_size=2,
    max_new_tokens=reply,
    eos=(),
  )
  for i, length in enumerate(lengths):
    brief = torch.from_numpy(prompt_PxL[i : i + 1, :length])
    written = case.theirs.generate(
      brief,
      attention_mask=torch.ones_like(brief),
      do_sample=False,
      max_new_tokens=reply,
    )
    for g in range(2):
      assert rollout.token[i, g].tolist() == written[0, length:].tolist()
    theirs = forward_variants.torch_logits(case.theirs, written.numpy())[0]
    logp_LxV = np.asarray(jax.nn.log_softmax(theirs))
    place_T = length + np.arange(reply)
    expected_T = logp_LxV[place_T - 1, written[0, place_T].numpy()]
    difference = np.abs(rollout.logp[i] - expected_T).max()
    assert table(case.family, 'decoding', difference) <= 1e-4


@_each()
def test_packed_groups_equal_padded_ones(case: Case) -> None:
  # In float32 the last bit of Gemma 4's weights changes more than 1e-5.
  if not case.family.startswith('gemma4'):
    forward_variants.assert_packing_changes_nothing(
      case.config, case.params, spare=(7,)
    )
  with forward_variants.double(case.config, case.params) as (config, params):
    forward_variants.assert_packing_changes_nothing(
      config, params, spare=(7,), bound=1e-12
    )


@_each()
def test_a_shared_brief_equals_repeated_ones(case: Case, table: Any) -> None:
  (_, shared), ours = forward_variants.gradient(
    forward_variants.shared, case.config, case.params
  )
  (_, repeated), theirs = forward_variants.gradient(
    forward_variants.repeated, case.config, case.params
  )
  # Weights that differ in their last bit change Gemma 4's gradients by 1e-5 to
  # 3e-5, and those of the others by 2e-6.
  bound = 5e-5 if case.family.startswith('gemma4') else 1e-5
  for one, other in zip(shared, repeated, strict=True):
    assert np.abs(one - other).max() <= bound
  difference = forward_variants.distance(ours, theirs)
  assert table(case.family, 'shared brief', difference) <= bound


@_each()
def test_gradients_equal_torch(case: Case, table: Any) -> None:
  token_PxL = _tokens()

  @jax.jit
  @jax.grad
  def gradient(params: Params) -> jax.Array:
    hidden = forward_variants.hidden(case.config, params, token_PxL[:, :-1])
    logp_N = layers.token_logprobs(
      hidden.reshape(-1, hidden.shape[-1]),
      decoder.head_weight(params),
      jnp.asarray(token_PxL[:, 1:].reshape(-1)),
      config=case.config,
    )
    return -logp_N.mean()

  case.theirs.zero_grad()
  target = torch.from_numpy(token_PxL)
  case.theirs(target, labels=target).loss.backward()
  theirs = {k: v.grad.numpy() for k, v in case.theirs.named_parameters()}
  ours = checkpoints.under_their_names(case.config, gradient(case.params))
  for name, _ in case.theirs.named_buffers():  # not trained
    assert not ours.pop(name, np.zeros(1)).any()
  assert ours.keys() == theirs.keys()
  for name, expected in theirs.items():
    difference = forward_variants.distance(ours[name], expected)
    assert table(case.family, 'gradient', difference) <= 1e-4, name


# Of OLMo 3 both kinds of layers have one theta.
_OLMO3 = {
  'full_attention': {
    'rope_type': 'yarn',
    'rope_theta': 10_000.0,
    'factor': 4.0,
    'original_max_position_embeddings': 8,
    'attention_factor': 1.25,
    'beta_fast': 16.0,
  },
  'sliding_attention': {'rope_type': 'default', 'rope_theta': 10_000.0},
}


# A GGUF header cannot say all.
@pytest.mark.slow
@pytest.mark.parametrize(
  ('family', 'settings'),
  [
    ('mistral', {'sliding_window': None}),
    ('qwen2-yarn', {}),
    ('smollm3', {'no_rope_layer_interval': 4, 'use_sliding_window': False}),
    ('olmo2', {}),
    ('olmo3', {'rope_parameters': _OLMO3}),
    ('olmo3', {'rope_parameters': _OLMO3, 'layer_types': None}),
    ('ministral3', {}),
    ('granite', {}),
    ('gemma2', {'query_pre_attn_scalar': 12}),
    ('gemma4', {}),
    ('gemma4-small', {}),
    ('phi3', {}),
    (
      'phi3',
      {
        'rope_parameters': {
          'rope_type': 'default',
          'rope_theta': 10_000.0,
          'partial_rotary_factor': 0.75,
        }
      },
    ),
  ],
)
def test_gguf_loads_equal_to_safetensors(
  family: str,
  settings: dict[str, Any],
  make_model: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  theirs = make_model(family, **settings)
  theirs.save_pretrained(tmp_path)
  ours = weights.load(checkpoints.write_gguf(tmp_path / 'tiny.gguf', theirs))
  expected = weights.load(tmp_path)
  # The file's numbers are float32.
  found = dataclasses.replace(ours[0], norm_eps=expected[0].norm_eps)
  if family == 'phi3':
    magnitude = expected[0].rope.magnitude
    assert found.rope.magnitude == pytest.approx(magnitude)
    rope = dataclasses.replace(found.rope, magnitude=magnitude)
    found = dataclasses.replace(found, rope=rope)
  assert found == expected[0]
  atol = 2e-7 if family == 'gemma2' else 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol),
    ours[1],
    expected[1],
  )


# Of a tensor with several projections, or projections that some layers lack.
@pytest.mark.slow
@pytest.mark.parametrize(
  'targets', [('query', 'value', 'down'), ('gate', 'key', 'query', 'up')]
)
@pytest.mark.parametrize(
  'case', ['phi3', 'gemma4', 'gemma4-small'], indirect=True
)
def test_peft_reads_adapters(
  targets: tuple[str, ...], case: Case, tmp_path: pathlib.Path
) -> None:
  import peft

  adapters = LoraConfig(2, 3.0, targets)
  config = dataclasses.replace(case.config, lora=adapters)
  rng = np.random.default_rng(0)
  learned = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) / 4, 'float32'),
    lora.adapters(weights.abstract_params(config)),
  )
  base = {'base_model_name_or_path': str(case.folder)}
  export.save_adapters(config, learned, base, tmp_path)
  theirs = type(case.theirs).from_pretrained(case.folder).eval()
  theirs = peft.PeftModel.from_pretrained(theirs, str(tmp_path))
  params = lora.join(learned, case.params)
  ours = forward_variants.logits(config, params, _tokens())
  expected = forward_variants.torch_logits(theirs, _tokens())
  plain = forward_variants.torch_logits(case.theirs, _tokens())
  assert np.abs(expected - plain).max() > 0.1
  np.testing.assert_allclose(ours, expected, atol=1e-3)
  merged = lora.merge(config, params)
  ours = forward_variants.logits(case.config, merged, _tokens())
  np.testing.assert_allclose(ours, expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('count', [4])
@pytest.mark.parametrize('case', ['gemma4', 'gemma4-small'], indirect=True)
def test_first_layers_of_different_shapes_are_theirs(
  count: int, case: Case
) -> None:
  config = case.config.first_layers(count)
  params = weights.first_layers(config, jax.device_put(case.params))
  assert jax.tree.map(np.shape, params) == jax.tree.map(
    np.shape, weights.abstract_params(config)
  )
  ours = forward_variants.hidden(config, params, _tokens())
  theirs = copy.deepcopy(case.theirs.model)
  theirs.layers = theirs.layers[:count]
  theirs.config.num_hidden_layers = count
  if config.layer_input_dim:
    width = count * config.layer_input_dim
    table = theirs.embed_tokens_per_layer.weight
    table.data = table.data[:, :width]
    project = theirs.per_layer_model_projection.weight
    project.data = project.data[:width]
  with torch.no_grad():
    tokens = torch.from_numpy(_tokens())
    expected = theirs(tokens, use_cache=False).last_hidden_state
  np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('case', ['gemma4', 'gemma4-small'], indirect=True)
def test_weights_in_memory_once_sample_the_same(case: Case) -> None:
  prompt_PxL, options = _tokens()[:, :9], {}
  options |= dict(config=case.config, group_size=2, max_new_tokens=5, eos=())
  inputs = prompt_PxL, np.array([9, 4]), np.arange(2), Greedy(), 0, 0
  expected = sample(case.params, *inputs, **options)
  once = moving.Weights(jax.device_put(case.params), 'float32')
  for _ in range(2):
    ours = sample(once, *inputs, **options)
    np.testing.assert_array_equal(ours.token, expected.token)
  mesh = make_mesh(2, 2, 2)
  with jax.set_mesh(mesh):
    _, spread = weights.load(case.folder, mesh)
    ours = sample(spread, *inputs, **options)
  np.testing.assert_array_equal(ours.token, expected.token)


# --- Headers ----------------------------------------------------------------

HEADER = {
  'vocab_size': 50,
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 4,
  'num_attention_heads': 2,
  'rms_norm_eps': 1e-5,
  'max_position_embeddings': 64,
}


GEMMA4 = {
  'model_type': 'gemma4_text',
  'head_dim': 8,
  'sliding_window': 8,
  'hidden_size_per_layer_input': 0,
}


def _read(**fields: Any) -> ModelConfig:
  return ModelConfig.from_hf(HEADER | fields)


@pytest.mark.parametrize(
  ('fields', 'expected'),
  [
    ({'model_type': 'mistral', 'sliding_window': None}, {'window': None}),
    # beyond every text
    ({'model_type': 'mistral'}, {'window': None}),
    (
      {'model_type': 'mistral', 'sliding_window': 8},
      {'window': 8, 'local_layers': (), 'tied_head': False},
    ),
    (
      {'model_type': 'smollm3', 'no_rope_layers': [1, 0, 1, 1, 0, 0]},
      {'rope_layers': (True, False, True, True), 'tied_head': True},
    ),
    ({'model_type': 'smollm3', 'no_rope_layers': [1] * 4}, {'rope_layers': ()}),
    (
      {'model_type': 'smollm3', 'no_rope_layers': None},
      {'rope_layers': (True, True, True, False), 'rope': RopeConfig(2e6)},
    ),
    (
      {'model_type': 'olmo3', 'layer_types': None, 'sliding_window': 8},
      {'local_layers': (True, True, True, False), 'window': 8},
    ),
    (
      {
        'model_type': 'olmo3',
        'rope_theta': 5e5,
        'rope_scaling': {'rope_type': 'linear', 'factor': 8.0},
      },
      {
        'rope': RopeConfig(5e5, 'linear', 8.0),
        'local_rope': RopeConfig(5e5),
      },
    ),
    (
      {
        'model_type': 'olmo3',
        'layer_types': ['sliding_attention'] * 4,
        'sliding_window': 8,
        'rope_scaling': {'rope_type': 'linear', 'factor': 8.0},
      },
      {'local_layers': (), 'window': 8, 'rope': RopeConfig(5e5)},
    ),
    ({'model_type': 'granite'}, {'query_scale': 1.0, 'logit_scale': 1.0}),
    ({'model_type': 'ministral3'}, {'head_dim': 128}),
    (
      {
        'model_type': 'phi3',
        'partial_rotary_factor': 0.5,
        'rope_scaling': {
          'type': 'su',
          'short_factor': [1, 2],
          'long_factor': [1, 2],
        },
        'original_max_position_embeddings': 32,
      },
      {'context': 32, 'head_dim': 8},
    ),
    (
      {
        'model_type': 'qwen2',
        'rope_scaling': {
          'type': 'yarn',
          'factor': 4.0,
          'original_max_position_embeddings': 64,
        },
      },
      {'context': 256},
    ),
    (
      GEMMA4,
      {
        'local_layers': (True, True, True, False),
        'global_head_dim': 512,
        'rope': RopeConfig(1e6, 'proportional', fraction=0.25),
        'local_rope': RopeConfig(10_000.0),
        'tied_head': True,
      },
    ),
    # Without attention_k_eq_v, global layers have as many heads as local ones.
    (
      GEMMA4 | {'num_global_key_value_heads': 1},
      {'global_kv_heads': 2, 'keys_are_values': False},
    ),
    (
      GEMMA4
      | {'attention_k_eq_v': True, 'per_layer_config': {'3': {'head_dim': 16}}},
      {'global_kv_heads': 2, 'global_head_dim': 16, 'keys_are_values': True},
    ),
    # All layers are alike.
    (
      GEMMA4 | {'per_layer_config': {}, 'head_dim': 8},
      {'global_kv_heads': 2, 'global_head_dim': 8},
    ),
    (
      {'rope_scaling': {'type': 'dynamic', 'factor': 4.0}},
      {'context': 64, 'rope': RopeConfig(limit=64)},
    ),
  ],
)
def test_fields_that_a_file_leaves_out_have_their_defaults(
  fields: dict[str, Any], expected: dict[str, Any]
) -> None:
  config = _read(**fields)
  assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
  ('fields', 'parts'),
  [
    ({'model_type': 'phi3', 'partial_rotary_factor': 0.1}, ['0 of 8']),
    ({'model_type': 'llama', 'partial_rotary_factor': 0.5}, ['partial_rotary']),
    (
      {'rope_parameters': {'partial_rotary_factor': 0.5}},
      ['partial_rotary_factor=0.5'],
    ),
    (
      {'rope_parameters': {'llama_4_scaling_beta': 0.1}},
      ['llama_4_scaling_beta=0.1'],
    ),
    ({'model_type': 'smollm3', 'no_rope_layers': [1]}, ['no_rope_layers=[1]']),
    ({'model_type': 'smollm3', 'no_rope_layers': [2]}, ['no_rope_layers=[2]']),
    ({'model_type': 'granite', 'logits_scaling': 0}, ['logits_scaling=0']),
    ({'model_type': 'olmo2', 'hidden_act': 'gelu'}, ["hidden_act='gelu'"]),
    (
      {
        'model_type': 'phi3',
        'rope_scaling': {
          'type': 'longrope',
          'short_factor': [1.0],
          'long_factor': [1.0],
        },
      },
      ['short_factor has 1', '4 rotary pairs'],
    ),
    ({'model_type': 'gemma3', 'text_config': {'num_experts': 8}}, ['experts']),
    (
      {'model_type': 'qwen3_5_moe', 'text_config': {'num_experts': 8}},
      ['text_config.num_experts=8', 'mixture of experts'],
    ),
    (
      {
        'model_type': 'qwen3_5',
        'text_config': {'layer_types': ['linear_attention', 'full_attention']},
      },
      ["text_config.layer_types has 'linear_attention'", 'softmax'],
    ),
    (
      {'model_type': 'granitemoehybrid', 'layer_types': ['mamba', 'attention']},
      ["model_type='granitemoehybrid'", "layer_types has 'mamba'"],
    ),
    (
      {'model_type': 'llava', 'text_config': {'model_type': 'llama'}},
      ["model_type='llava'", 'multimodal'],
    ),
    (
      {'model_type': 'gemma4', 'text_config': {'num_experts': 128}},
      ['num_experts=128', 'mixture of experts'],
    ),
    (GEMMA4 | {'enable_moe_block': True}, ['enable_moe_block=True']),
    (GEMMA4 | {'use_bidirectional_attention': 'all'}, ["attention='all'"]),
    (GEMMA4 | {'num_kv_shared_layers': 4}, ['num_kv_shared_layers=4 of 4']),
    (
      GEMMA4 | {'hidden_size_per_layer_input': 4},
      ['vocab_size_per_layer_input=262144', 'vocab_size=50'],
    ),
    (
      GEMMA4 | {'layer_types': ['sliding_attention'] * 4},
      ['layer_types', 'full_attention of the last layer'],
    ),
    (GEMMA4 | {'per_layer_config': {'2': {'head_dim': 8}}}, ['[3]']),
    (
      GEMMA4 | {'per_layer_config': {'3': {'sliding_window': 8}}},
      ['per_layer_config', "'head_dim'"],
    ),
    (GEMMA4 | {'per_layer_config': {'3': {'head_dim': -8}}}, ['head_dim=-8']),
    (GEMMA4 | {'global_head_dim': 7}, ['global_head_dim=7', 'even']),
    (
      GEMMA4
      | {
        'rope_parameters': {'sliding_attention': {'partial_rotary_factor': 0.5}}
      },
      ['partial_rotary_factor=0.5'],
    ),
    ({'model_type': 'gpt_oss'}, ["model_type='gpt_oss'", 'expected']),
  ],
)
def test_what_is_not_supported_is_refused_in_one_line(
  fields: dict[str, Any], parts: list[str]
) -> None:
  with pytest.raises(ValueError) as error:
    _read(**fields)
  assert '\n' not in str(error.value)
  for part in parts:
    assert part in str(error.value)


@pytest.mark.parametrize('name', ['Gemma4', 'Gemma4Unified'])
def test_a_text_part_of_defaults_alone_is_read(name: str) -> None:
  theirs = getattr(transformers, f'{name}TextConfig')()
  kind = theirs.model_type.removesuffix('_text')
  ours = ModelConfig.from_hf({'model_type': kind, 'text_config': {}})
  expected = ModelConfig.from_hf(theirs.to_dict())
  assert ours == expected
  assert (ours.global_head_dim, ours.num_layers) == (512, 30)


def test_a_text_beyond_the_frequencies_is_refused() -> None:
  config = _read(rope_scaling={'type': 'dynamic', 'factor': 4.0})
  params = weights.abstract_params(config)
  with pytest.raises(ValueError, match='65 tokens is longer than 64'):
    jax.eval_shape(
      lambda p: forward_variants.hidden(config, p, jnp.zeros((1, 65), int)),
      params,
    )


# --- The page ---------------------------------------------------------------


def test_the_page_of_models_has_a_row_for_each_family() -> None:
  assert [*_page()] == [*families.FAMILIES]


def test_json_can_say_all_that_a_family_assumes() -> None:
  for family in families.FAMILIES.values():
    assert json.loads(json.dumps(family.defaults)) == family.defaults
