"""Every family against transformers, from its files to its gradients.

`pytest tests/models/families_test.py -s` ends with a table of differences.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import checkpoints
import forward_variants
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from cases import quick
from conftest import FAMILIES

from rlcw.models import decoder, weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Params
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling.rollout import sample
from rlcw.sampling.samplers import Greedy

_LENGTH = 24  # beyond every window (6) and every original length (8)
_WINDOWED = ('qwen2-window', 'gemma3')
# decoding compiles longest, and does not know these from others
_DECODED = sorted(FAMILIES.keys() - {'llama', 'r1-distill-llama'})
_CLASSIFIER = 'ForSequenceClassification'


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
  checks = list(dict.fromkeys(check for row in found.values() for check in row))
  print('\n' + ' | '.join([f'{"family":16}', *(f'{c:>12}' for c in checks)]))
  for family, row in found.items():
    cells = [f'{row[c]:12.1e}' if c in row else f'{"":12}' for c in checks]
    print(' | '.join([f'{family:16}', *cells]))


@pytest.fixture(scope='module', params=FAMILIES)
def case(
  request: pytest.FixtureRequest,
  make_model: Callable[..., Any],
  tmp_path_factory: pytest.TempPathFactory,
) -> Case:
  folder = tmp_path_factory.mktemp('family')
  theirs = make_model(request.param)
  theirs.save_pretrained(folder)
  return Case(request.param, theirs, folder, *weights.load(folder))


def _tokens(rows: int = 2) -> np.ndarray:
  return np.random.default_rng(0).integers(2, 300, (rows, _LENGTH))


def test_a_family_shows_what_is_peculiar_to_it(case: Case) -> None:
  c, held = case.config, checkpoints.state(case.theirs)
  assert ('lm_head.weight' in held) != c.tied_head
  assert any('bias' in name for name in held) == c.qkv_bias
  assert any('q_norm' in name for name in held) == c.qk_norm
  assert c.num_heads == 2 * c.num_kv_heads
  assert bool(c.window) == (case.family in _WINDOWED)
  if c.window:
    assert c.window < _LENGTH
    assert len(set(c.local_layers)) == 2
  for name, tensor in held.items():
    if 'norm' in name or 'bias' in name:
      assert tensor.std() > 0.05, name


def test_logits_equal_transformers(case: Case, table: Any) -> None:
  theirs = forward_variants.torch_logits(case.theirs, _tokens())
  ours = forward_variants.logits(case.config, case.params, _tokens())
  assert np.abs(theirs).max() > 1
  difference = np.abs(ours - theirs).max()
  assert table(case.family, 'logits', difference) <= 1e-4


def test_a_padded_row_equals_one_that_is_not(case: Case, table: Any) -> None:
  short = 13
  padded_PxL = _tokens()
  padded_PxL[1, short:] = 0
  ours = forward_variants.hidden(case.config, case.params, padded_PxL)[
    1, :short
  ]
  alone = forward_variants.hidden(
    case.config, case.params, padded_PxL[1:, :short]
  )[0]
  difference = np.abs(ours - alone).max()
  assert table(case.family, 'padding', difference) <= 1e-5


@pytest.mark.parametrize(
  'case', quick(_DECODED, 'gemma3', 'qwen3'), indirect=True
)
def test_greedy_replies_equal_transformers(case: Case, table: Any) -> None:
  lengths, reply = [9, 14], 10
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
  row_PxL = np.zeros_like(_tokens())
  for i, length in enumerate(lengths):
    brief = torch.from_numpy(prompt_PxL[i : i + 1, :length])
    written = case.theirs.generate(
      brief,
      attention_mask=torch.ones_like(brief),
      do_sample=False,
      max_new_tokens=reply,
    )[0].numpy()
    for g in range(2):
      assert rollout.token[i, g].tolist() == written[length:].tolist()
    row_PxL[i, : length + reply] = written
  logp_PxLxV = jax.nn.log_softmax(
    forward_variants.logits(case.config, case.params, row_PxL)
  )
  for i, length in enumerate(lengths):
    place_T = length + np.arange(reply)
    expected_T = logp_PxLxV[i, place_T - 1, row_PxL[i, place_T]]
    difference = np.abs(rollout.logp[i] - expected_T).max()
    assert table(case.family, 'decode logp', difference) <= 1e-4


@pytest.mark.parametrize('shard', ['1GB', '20KB'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_folder_loads_as_it_was_saved(
  shard: str,
  dtype: str,
  case: Case,
  make_model: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  theirs = make_model(case.family).to(getattr(torch, dtype))
  theirs.save_pretrained(tmp_path, max_shard_size=shard)
  files = len(list(tmp_path.glob('*.safetensors')))
  assert files > 2 if shard == '20KB' else files == 1
  config, params = weights.load(tmp_path)
  assert config == case.config
  assert {a.dtype for a in jax.tree.leaves(params)} == {np.dtype('float32')}
  checkpoints.assert_holds((config, params), checkpoints.state(theirs))


def test_parameters_take_the_dtype_that_is_asked_for(case: Case) -> None:
  _, params = weights.load(case.folder, dtype='bfloat16')
  expected = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16), case.params)
  jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize('shape', [(2, 2, 2), (1, 8, 1), (8, 1, 1)])
def test_a_mesh_holds_what_one_host_does(
  shape: tuple[int, int, int], case: Case
) -> None:
  mesh = make_mesh(*shape)
  config, params = weights.load(case.folder, mesh)
  assert config == case.config
  jax.tree.map(np.testing.assert_array_equal, params, case.params)
  expected = weights.param_shardings(config, mesh)
  jax.tree.map(
    lambda a, s: a.sharding.is_equivalent_to(s, a.ndim) or pytest.fail(str(s)),
    params,
    expected,
  )
  kernel = params['blocks']['up']['kernel']
  assert kernel.addressable_shards[0].data.shape == (
    config.num_layers,
    64 // shape[2],
    32 // shape[1],
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'case',
  ['qwen2-window', 'gemma3'],
  indirect=True,
)
def test_a_shared_brief_equals_repeated_ones_under_windows(
  case: Case, table: Any
) -> None:
  # briefs of 3, 8 and 5 tokens, replies of 6, windows of 6: the window lies
  # within the brief, across its end, and within the reply
  (_, shared), ours = forward_variants.gradient(
    forward_variants.shared, case.config, case.params
  )
  (_, repeated), theirs = forward_variants.gradient(
    forward_variants.repeated, case.config, case.params
  )
  for one, other in zip(shared, repeated, strict=True):
    difference = np.abs(one - other).max()
    assert table(case.family, 'shared brief', difference) <= 1e-5
  difference = forward_variants.distance(ours, theirs)
  assert table(case.family, 'shared grad', difference) <= 1e-5


@pytest.mark.parametrize('case', quick(FAMILIES, 'gemma3'), indirect=True)
def test_packed_groups_equal_padded_ones(case: Case) -> None:
  forward_variants.assert_packing_changes_nothing(
    case.config, case.params, spare=(7,)
  )


@pytest.mark.parametrize(
  'case', quick(['llama3', 'qwen3', 'gemma3'], 'gemma3'), indirect=True
)
def test_gradients_equal_torch(case: Case, table: Any) -> None:
  token_PxL = _tokens()

  @jax.jit
  @jax.grad
  def gradient(params: Params) -> jax.Array:
    hidden = forward_variants.hidden(case.config, params, token_PxL[:, :-1])
    logp = jax.nn.log_softmax(hidden @ decoder.head_weight(params).T)
    return -jnp.take_along_axis(logp, token_PxL[:, 1:, None], -1).mean()

  case.theirs.zero_grad()
  target = torch.from_numpy(token_PxL)
  case.theirs(target, labels=target).loss.backward()
  theirs = {k: v.grad.numpy() for k, v in case.theirs.named_parameters()}
  ours = checkpoints.under_their_names(case.config, gradient(case.params))
  assert ours.keys() == theirs.keys()
  for name, expected in theirs.items():
    assert np.abs(expected).max() > 0, name
    difference = forward_variants.distance(ours[name], expected)
    assert table(case.family, 'gradient', difference) <= 1e-4, name


@pytest.mark.parametrize(
  'family', ['llama', 'llama3', 'qwen2', 'qwen3', 'gemma3']
)
def test_a_classifier_gives_the_logits_of_transformers(
  family: str,
  make_model: Callable[..., Any],
  table: Any,
  tmp_path: pathlib.Path,
) -> None:
  theirs = make_model(family, _CLASSIFIER, num_labels=1)
  theirs.save_pretrained(tmp_path)
  config, params, score_D = weights.load_classifier(tmp_path)
  hidden = forward_variants.hidden(config, params, _tokens())
  ours_P = hidden[:, -1] @ score_D
  theirs_P = forward_variants.torch_logits(theirs, _tokens())[:, 0]
  difference = np.abs(ours_P - theirs_P).max()
  assert table(family, 'classifier', difference) <= 1e-4
  mesh = make_mesh(2, 2, 2)
  _, spread, spread_score_D = weights.load_classifier(tmp_path, mesh)
  np.testing.assert_array_equal(spread_score_D, score_D)
  jax.tree.map(np.testing.assert_array_equal, spread, params)


@pytest.mark.parametrize('tied', [True, False])
def test_a_classifier_is_no_language_model(
  tied: bool, make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  make_model(
    'qwen2', _CLASSIFIER, num_labels=1, tie_word_embeddings=tied
  ).save_pretrained(tmp_path)
  with pytest.raises(ValueError, match=r'score\.weight is the head'):
    weights.load(tmp_path)


@pytest.mark.parametrize('tied', [True, False])
def test_a_language_model_is_no_classifier(
  tied: bool, make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  make_model('qwen2', tie_word_embeddings=tied).save_pretrained(tmp_path)
  with pytest.raises(ValueError, match=r'missing: score\.weight') as error:
    weights.load_classifier(tmp_path)
  assert ('unknown: lm_head.weight' in str(error.value)) != tied


def test_a_classifier_of_two_labels_is_an_error(
  make_model: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  make_model('llama', _CLASSIFIER, num_labels=2).save_pretrained(tmp_path)
  message = r'score\.weight: shape \(2, 32\), expected \(1, 32\)'
  with pytest.raises(ValueError, match=message):
    weights.load_classifier(tmp_path)


_LONG = {  # as published Llamas have it, which is all that GGUF can say
  'rope_parameters': {
    'rope_type': 'llama3',
    'rope_theta': 500_000.0,
    'factor': 32.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8192,
  }
}


@pytest.mark.parametrize(
  ('family', 'settings'),
  [
    ('llama', {}),
    ('llama', {'tie_word_embeddings': False, 'head_dim': 12}),
    ('llama3', _LONG),
    ('llama-linear', {}),
    ('r1-distill-llama', _LONG | {'head_dim': 64}),
    ('qwen2', {}),
    ('r1-distill-qwen', {}),
    ('qwen3', {}),
    ('gemma3', {'num_hidden_layers': 7}),
    ('gemma3', {'num_hidden_layers': 62, 'query_pre_attn_scalar': 8}),
  ],
)
def test_gguf_loads_equal_to_safetensors(
  family: str,
  settings: dict[str, Any],
  make_model: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  if family == 'gemma3':  # what the file's header leaves out
    rope = {'rope_type': 'linear', 'rope_theta': 1e6, 'factor': 8.0}
    local = {'rope_type': 'default', 'rope_theta': 10_000.0}
    settings = {
      'layer_types': None,
      'query_pre_attn_scalar': 12,
      'rope_parameters': {'full_attention': rope, 'sliding_attention': local},
    } | settings
  theirs = make_model(family, **settings)
  theirs.save_pretrained(tmp_path)
  ours = weights.load(checkpoints.write_gguf(tmp_path / 'tiny.gguf', theirs))
  expected = weights.load(tmp_path)
  eps = expected[0].norm_eps
  assert ours[0].norm_eps == pytest.approx(eps)  # the file's is a float32
  assert dataclasses.replace(ours[0], norm_eps=eps) == expected[0]
  # Gemma's norms are one float32 addition away
  atol = 2e-7 if family == 'gemma3' else 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol),
    ours[1],
    expected[1],
  )
