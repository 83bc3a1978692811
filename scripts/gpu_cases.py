"""Models that `bench_gpu` measures, and the FLOPs and bytes of their steps."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlcw.models import compute
from rlcw.models.config import ModelConfig
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.plan import roofline
from rlcw.tasks.plan.roofline import Shapes

# The settings of configs/grpo.py that a step's programs read.  A test compares
# them with that file.
SETTINGS = dict(
  seed=0,
  steps=32,
  train='all',
  lora=dict(
    rank=16,
    alpha=32.0,
    targets=('query', 'key', 'value', 'output', 'gate', 'up', 'down'),
  ),
  temperature=0.7,
  ratio='token',
  aggregation='token_mean',
  clip_low=0.2,
  clip_high=0.2,
  kl='k3',
  kl_weight=0.1,
  learning_rate=2e-5,
  warmup_steps=2,
  max_grad_norm=1.0,
  remat=True,
  moment_dtype='float32',
  attention='auto',
)


class Case(NamedTuple):
  """A model's config.json and the shapes of one training step."""

  header: dict[str, Any]
  shapes: Shapes
  microbatch_groups: int
  train: str = 'all'


def header(
  family: str,
  vocab: int,
  dim: int,
  mlp: int,
  layers: int,
  heads: tuple[int, int],
  *,
  theta: float = 1e6,
  tied: bool = True,
) -> dict[str, Any]:
  """Returns the fields of a Hugging Face config.json.

  Args:
    family: `model_type`.
    vocab: vocabulary size.
    dim: hidden size.
    mlp: inner size of the MLP.
    layers: number of blocks.
    heads: number of query heads and of key/value heads.
    theta: base of the rotary positions.
    tied: whether embedding and head share their weights.
  """
  return {
    'model_type': family,
    'vocab_size': vocab,
    'hidden_size': dim,
    'intermediate_size': mlp,
    'num_hidden_layers': layers,
    'num_attention_heads': heads[0],
    'num_key_value_heads': heads[1],
    'rms_norm_eps': 1e-5 if family == 'llama' else 1e-6,
    'rope_theta': theta,
    'tie_word_embeddings': tied,
  }


STEP = Shapes(prompts=32, group=8, prompt_tokens=512, reply_tokens=256)
CASES = {
  'smollm2_135m': Case(
    header('llama', 49152, 576, 1536, 30, (9, 3), theta=1e5), STEP, 8
  ),
  'qwen2_5_0_5b': Case(
    header('qwen2', 151936, 896, 4864, 24, (14, 2)), STEP, 8
  ),
  'qwen2_5_1_5b': Case(
    header('qwen2', 151936, 1536, 8960, 28, (12, 2)), STEP, 8
  ),
  # LoRA, because training all weights would need 180 GiB.
  'qwen2_5_7b': Case(
    header('qwen2', 152064, 3584, 18944, 28, (28, 4), tied=False),
    STEP,
    8,
    'lora',
  ),
  'tiny': Case(header('qwen2', 320, 32, 64, 1, (4, 2)), Shapes(4, 2, 8, 6), 2),
}
# The model on which CPU and GPU are compared.
SMALL = Case(
  header('qwen2', 4096, 256, 704, 4, (4, 2)), Shapes(8, 4, 48, 32), 4
)


class Run(NamedTuple):
  """A case with everything its programs need except arrays."""

  name: str
  case: Case
  settings: ConfigDict
  config: ModelConfig  # with adapters, dtype and remat
  mesh: Mesh

  @property
  def microbatches(self) -> int:
    return self.case.shapes.prompts // self.case.microbatch_groups


def prepare(name: str, case: Case, dtype: str, device: Any) -> Run:
  """Builds a case's settings, model configuration and one-device mesh."""
  settings = ConfigDict(SETTINGS | {'train': case.train})
  settings.compute_dtype = dtype
  settings.microbatch_groups = case.microbatch_groups
  config = compute.configure(ModelConfig.from_hf(case.header), settings)
  return Run(name, case, settings, config, make_mesh(devices=[device]))


# --- FLOPs and bytes --------------------------------------------------------


def pass_flops(config: ModelConfig, shapes: Shapes) -> float:
  """FLOPs of one forward pass, with the logits of every reply token."""
  return roofline.blocks_flops(config, shapes) + head_flops(config, shapes)


def head_flops(config: ModelConfig, shapes: Shapes) -> float:
  """FLOPs of the logits of every reply token."""
  prompts, group, _, reply = shapes
  return roofline.logit_flops(config, prompts * group * reply)


def frozen_flops(config: ModelConfig, shapes: Shapes) -> float:
  """FLOPs of the weight gradients that LoRA does not compute.

  Trained weights need three products (forward, gradient of the input, gradient
  of the weight); frozen ones only two.
  """
  if config.lora is None:
    return 0.0
  blocks = roofline.product_flops(config, shapes.tokens)
  return blocks + head_flops(config, shapes)


def update_flops(run: Run) -> tuple[float, float]:
  """FLOPs of an update: with rematerialisation, and without (for MFU)."""
  config, shapes = run.config, run.case.shapes
  prompts, group, _, reply = shapes
  work = roofline.gradient(
    config, shapes, shapes.tokens, prompts * group * reply, 1, 0, 0
  )
  # Model FLOPs, by the convention of MFU: forward once, backward twice as much.
  once = 3 * pass_flops(config, shapes) - frozen_flops(config, shapes)
  return work.flops, once


def decoding_bytes(config: ModelConfig, shapes: Shapes) -> float:
  """Fewest bytes that decoding a rollout reads: weights and KV cache per token.

  The cache counts at its final length.
  """
  # Only a few rows of an untied embedding are read, so only the head counts.
  one_table = dataclasses.replace(config, tied_head=True)
  weights = roofline.all_weights(one_table) * jnp.dtype(config.dtype).itemsize
  return shapes.reply_tokens * (weights + roofline.cache_bytes(config, shapes))
