"""A step's programs compiled for a GPU that is not there.

Skipped where `pip install -e .[cuda]` has not been run.
"""

import re
from typing import Any

import jax
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.experimental import topologies

from configs import grpo
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.plan import headers, programs, run

# An H200 as XLA describes it (openxla/xla, xla/backends/gpu/target_config).
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 151397597184
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H200"
"""
HEADER = {
  'model_type': 'qwen2',
  'vocab_size': 320,
  'hidden_size': 128,
  'intermediate_size': 64,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'num_key_value_heads': 1,
  'rms_norm_eps': 1e-6,
  'tie_word_embeddings': True,
}
CAUSAL, MASKED = '__cudnn$fmhaSoftmax', '__cudnn$fmhaScaleBiasSoftmax'
CALL = re.compile(r'custom_call_target="(__cudnn[^"]*)"')
BACK = CAUSAL + 'Backward', MASKED + 'Backward'


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Any:
  """Of one GPU."""
  pytest.importorskip('jax_cuda13_plugin')
  monkeypatch.setattr(
    fused_attention_stablehlo, 'check_cudnn_version', lambda: 91000
  )
  jax.devices('cpu')  # finds the plugins
  topology = topologies.get_topology_desc(
    'h200', 'cuda', topology='1x1x1', target_config=H200
  )
  return make_mesh(devices=topology.devices)


@pytest.mark.slow
@pytest.mark.parametrize('train', ['all', 'lora'])
def test_a_step_compiles_for_a_gpu(
  train: str, mesh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setitem(headers.MODELS, 'small', HEADER)
  config = grpo.get_config()
  config.update(model='small', compute_dtype='bfloat16', train=train)
  config.plan.update(reward_model='', prompt_tokens=33)
  config.max_new_tokens = 17
  planned = run.make_plan(config, mesh)
  found = {}
  for program in programs.phases(planned):
    with jax.set_mesh(mesh):
      compiled = program.lower().compile()
    calls = re.findall(
      r'custom_call_target="(__cudnn[^"]*)"', compiled.as_text()
    )
    found[program.name] = set(calls)
    assert compiled.memory_analysis().peak_memory_in_bytes > 0
  # a brief is read causally, its replies under a mask; decoding has no kernel
  assert found == {
    'resharding': set(),  # the cast
    'prefill': {CAUSAL},
    'decode': set(),
    'reference': {CAUSAL, MASKED},
    'update': {CAUSAL, MASKED, *BACK},
    'optimiser': set(),
  }
