"""The decoder against Transformers, and shared briefs against repeated ones."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import forward_variants
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlcw.models import weights
from rlcw.models.config import ModelConfig, RopeConfig
from rlcw.models.decoder import Decoder

LEGAL = {
  'model_type': 'llama',
  'vocab_size': 300,
  'hidden_size': 32,
  'intermediate_size': 64,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'rms_norm_eps': 1e-5,
}


@pytest.mark.parametrize(
  'settings',
  [
    {},
    {'tie_word_embeddings': False},
    {'num_key_value_heads': 4},
    {'num_key_value_heads': 1, 'tie_word_embeddings': False},
    {'rope_parameters': {'rope_type': 'default', 'rope_theta': 100_000.0}},
    {'head_dim': 12},
    {'rms_norm_eps': 1e-2, 'num_hidden_layers': 3},
  ],
  ids=['gqa', 'head', 'mha', 'mqa', 'theta', 'head_dim', 'eps'],
)
def test_logits_equal_transformers(
  settings: dict[str, Any],
  make_llama: Callable[..., Any],
  tmp_path: pathlib.Path,
) -> None:
  llama = make_llama(**settings)
  llama.save_pretrained(tmp_path)
  config, params = weights.load(tmp_path)
  token_PxL = np.random.default_rng(0).integers(0, 300, (2, 24))
  ours, theirs = (
    forward_variants.logits(config, params, token_PxL),
    forward_variants.torch_logits(llama, token_PxL),
  )
  # relative to the largest logit: CPUs differ in the order of their sums, by
  # 1.5e-5 at most on those that ran this
  largest = np.abs(theirs).max()
  assert largest > 1
  assert np.abs(ours - theirs).max() <= 1e-5 * largest


def test_a_shared_brief_equals_repeated_ones(tiny: Any) -> None:
  (value, shared), ours = forward_variants.gradient(
    forward_variants.shared, *tiny
  )
  (expected, repeated), theirs = forward_variants.gradient(
    forward_variants.repeated, *tiny
  )
  for one, other in zip(shared, repeated, strict=True):
    assert one.shape == (3, forward_variants.GROUP, forward_variants.REPLY, 32)
    np.testing.assert_allclose(one, other, atol=4e-5, rtol=0)
  np.testing.assert_allclose(value, expected, rtol=4e-5)
  assert forward_variants.distance(ours, theirs) <= 1e-5


def test_brief_padding_is_inert(tiny: Any) -> None:
  one, other = (
    forward_variants.shared(*tiny, *forward_variants.briefs(pad))
    for pad in (0, 77)
  )
  jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_remat_recomputes_products_and_gives_the_same_gradient(
  tiny: Any,
) -> None:
  config, params = tiny
  remat = dataclasses.replace(config, remat=True)
  products = []
  for c in (config, remat):
    gradient = jax.grad(
      forward_variants.loss(forward_variants.shared, c), has_aux=True
    )
    products.append(str(jax.make_jaxpr(gradient)(params)).count('dot_general'))
  assert products[1] - products[0] >= 7  # all with a block's weights
  (_, ours), (_, theirs) = (
    forward_variants.gradient(forward_variants.shared, c, params)
    for c in (remat, config)
  )
  assert forward_variants.distance(ours, theirs) <= 1e-6


def test_gradient_reaches_earlier_tokens_only(tiny: Any) -> None:
  config, params = tiny
  token_L = np.arange(10, 18)  # all different, so a row of `embed` is a token

  @jax.jit
  @jax.jacrev
  def jacobian(embed_VxD: jax.Array) -> jax.Array:
    hidden, _ = Decoder(config).apply(
      {'params': params | {'embed': embed_VxD}}, token_L[None, None]
    )
    return hidden[0, 0] @ jnp.arange(1.0, 33.0)

  grad_LxSxD = jacobian(jnp.asarray(params['embed']))[:, token_L]
  reached_LxS = np.abs(grad_LxSxD).max(-1) > 0
  np.testing.assert_array_equal(reached_LxS, np.tri(8, dtype=bool))


def test_a_reply_sees_its_own_past_alone(tiny: Any) -> None:
  prompt_PxL, length_P, token_PxGxT = forward_variants.briefs()
  changed_PxGxT = token_PxGxT.copy()
  changed_PxGxT[1, 2, 3] = 1
  one = forward_variants.shared(*tiny, prompt_PxL, length_P, token_PxGxT)
  other = forward_variants.shared(*tiny, prompt_PxL, length_P, changed_PxGxT)
  differs = [
    np.argwhere((a != b).any(-1)).tolist()
    for a, b in zip(one, other, strict=True)
  ]
  assert differs == [[[1, 2, 4], [1, 2, 5]], [[1, 2, 3], [1, 2, 4], [1, 2, 5]]]


def test_activations_have_the_dtype_of_the_config(tiny: Any) -> None:
  config, params = tiny
  half = dataclasses.replace(config, dtype='bfloat16')
  (ours, _), (exact, _) = (
    forward_variants.shared(c, params, *forward_variants.briefs())
    for c in (half, config)
  )
  assert ours.dtype == jnp.bfloat16
  error = np.abs(ours.astype(jnp.float32) - exact)
  assert 0 < error.mean() < 0.02


def test_from_hf_reads_every_shape() -> None:
  config = ModelConfig.from_hf(LEGAL | {'head_dim': 12, 'rope_theta': 5e4})
  assert config == ModelConfig(
    vocab_size=300,
    model_dim=32,
    mlp_dim=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=12,
    rope=RopeConfig(5e4),
    norm_eps=1e-5,
    tied_head=False,
  )


@pytest.mark.parametrize(
  ('field', 'value', 'legal'),
  [
    ('model_type', 'gpt2', "'llama'"),
    ('hidden_act', 'gelu', "'silu'"),
    ('attention_bias', True, 'False'),
    ('mlp_bias', True, 'False'),
    ('rope_scaling', {'rope_type': 'mrope', 'factor': 8.0}, "'default'"),
    ('rope_scaling', {'type': 'su', 'factor': 2.0}, "'default'"),
    ('rope_parameters', {'rope_type': 'axial'}, "'default'"),
    ('quantization_config', {'quant_method': 'fp8'}, 'None'),
    ('partial_rotary_factor', 0.5, '1.0'),
    ('layer_types', ['full_attention', 'linear_attention'], 'sliding'),
  ],
)
def test_from_hf_rejects_what_it_cannot_run(
  field: str, value: Any, legal: str
) -> None:
  with pytest.raises(ValueError) as error:
    ModelConfig.from_hf(LEGAL | {field: value})
  named = field.split('_')[0] if 'rope' in field else field
  kind = next(iter(value.values())) if isinstance(value, dict) else value
  for part in (named, repr(kind), 'expected ', legal):
    assert part in str(error.value)


def test_an_incomplete_header_is_named() -> None:
  partial = {k: v for k, v in LEGAL.items() if k != 'num_attention_heads'}
  with pytest.raises(ValueError, match=r"lacks \['num_attention_heads'\]"):
    ModelConfig.from_hf(partial)


def test_heads_are_shared_evenly() -> None:
  with pytest.raises(ValueError, match=r'num_heads=4 .* num_kv_heads=3'):
    ModelConfig.from_hf(LEGAL | {'num_key_value_heads': 3})
