"""The kernels that each family's peculiarity takes on TPU and on GPU."""

import dataclasses
from typing import Any

import jax
import pytest
import tpu_programs

from rlcw.models import attention_decode, attention_kernels, weights
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Decoder

_HEADER = {
  'vocab_size': 512,
  'hidden_size': 256,
  'intermediate_size': 512,
  'num_hidden_layers': 4,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 128,
  'rms_norm_eps': 1e-6,
  'max_position_embeddings': 4096,
  'tie_word_embeddings': True,
}
_GEMMA = {
  'head_dim': 256,
  'sliding_window': 64,
  'query_pre_attn_scalar': 256,
  'layer_types': ['sliding_attention', 'full_attention'] * 2,
}
_YARN = {'rope_type': 'yarn', 'factor': 4.0, 'llama_4_scaling_beta': 0.1}
CASES: dict[str, dict[str, Any]] = {
  'soft caps': {'model_type': 'gemma2'} | _GEMMA,
  'layers without positions': {'model_type': 'smollm3'},
  'norms after sublayers': {'model_type': 'olmo2'},
  'fused projections': {
    'model_type': 'phi3',
    'hidden_size': 512,
    'rope_parameters': {'partial_rotary_factor': 0.75},
  },
  'multipliers': {'model_type': 'granite', 'attention_multiplier': 0.1},
  'yarn': {
    'model_type': 'ministral3',
    'rope_parameters': _YARN | {'original_max_position_embeddings': 1024},
  },
  'heads of global layers': {
    'model_type': 'gemma4_text',
    'hidden_size_per_layer_input': 0,
    'attention_k_eq_v': True,
    'num_global_key_value_heads': 1,
  }
  | _GEMMA,
  'embeddings of each layer, shared keys': {
    'model_type': 'gemma4_text',
    'hidden_size_per_layer_input': 128,
    'vocab_size_per_layer_input': 512,
    'num_kv_shared_layers': 2,
    'use_double_wide_mlp': True,
  }
  | _GEMMA,
}


@pytest.mark.slow
def test_each_peculiarity_takes_the_kernels_of_a_tpu() -> None:
  """The brief is read by splash attention, replies by the decode kernel."""
  cases = [(_HEADER | fields, (1, 1, 1)) for fields in CASES.values()]
  rows = tpu_programs.compiled('v5e:2x2', cases)
  for name, row in zip(CASES, rows, strict=True):
    prefill, loop, _, seconds = row
    print(f'{name}: {prefill}, {loop}, compiled in {seconds:.1f} s')
    assert loop == {attention_decode.NAME: 4 * 300}, name
    assert prefill, name
    assert all(kernel.startswith('splash') for kernel in prefill), name


@pytest.mark.parametrize('name', CASES)
def test_cudnn_reads_heads_of_at_most_128_without_caps(
  name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(
    attention_kernels, 'compiles_for', lambda platform: platform == 'cuda'
  )
  used = []

  def cudnn(q: jax.Array, *rest: Any, **options: Any) -> jax.Array:
    used.append(q.shape[-1])
    return q

  monkeypatch.setattr(attention_kernels, 'cudnn', cudnn)
  config = ModelConfig.from_hf(_HEADER | CASES[name])
  config = dataclasses.replace(config, dtype='bfloat16')
  jax.eval_shape(
    lambda params, token: Decoder(config).apply({'params': params}, token),
    weights.abstract_params(config),
    jax.ShapeDtypeStruct((1, 1, 8), 'int32'),
  )
  assert {*used} == (set() if 'gemma' in CASES[name]['model_type'] else {128})
