"""The models that `bench_gpu` measures, and what a step of theirs has to do."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlcw.models.config import ModelConfig
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan import roofline
from rlcw.tasks.plan.roofline import Shapes

# What a step's programs read of configs/grpo.py, as it stands there.
SETTINGS = dict(
  seed=0,
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
  kl_weight=0.1,
  learning_rate=2e-5,
  warmup_steps=2,
  max_grad_norm=1.0,
  remat=True,
  moment_dtype='float32',
  attention='auto',
)


class Case(NamedTuple):
  """A model's config.json, and the step that it takes."""

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
  """The fields of a config.json; `heads` are those of queries and of keys."""
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
  'qwen2_5_1_5b': Case(
    header('qwen2', 151936, 1536, 8960, 28, (12, 2)), STEP, 8
  ),
  # with all of its weights learning it would need 180 GiB
  'qwen2_5_7b': Case(
    header('qwen2', 152064, 3584, 18944, 28, (28, 4), tied=False),
    STEP,
    8,
    'lora',
  ),
  'tiny': Case(header('qwen2', 320, 32, 64, 1, (4, 2)), Shapes(4, 2, 8, 6), 2),
}
# what CPU and GPU are compared on
SMALL = Case(
  header('qwen2', 4096, 256, 704, 4, (4, 2)), Shapes(8, 4, 48, 32), 4
)


class Run(NamedTuple):
  """A case made ready: its programs' arguments."""

  name: str
  case: Case
  settings: ConfigDict
  config: ModelConfig  # with adapters, dtype and remat
  mesh: Mesh

  @property
  def microbatches(self) -> int:
    return self.case.shapes.prompts // self.case.microbatch_groups


def prepare(name: str, case: Case, dtype: str, device: Any) -> Run:
  """Everything about a case but its arrays."""
  settings = ConfigDict(SETTINGS | {'train': case.train})
  settings.compute_dtype = dtype
  config = objective.configure(ModelConfig.from_hf(case.header), settings)
  return Run(name, case, settings, config, make_mesh(devices=[device]))


# --- What has to be done ----------------------------------------------------


def frozen_flops(config: ModelConfig, shapes: Shapes) -> float:
  """What `roofline.update` counts and adapters spare: frozen weights' gradient.

  That is one product of three with every weight.
  """
  if config.lora is None:
    return 0.0
  prompts, group, width, reply = shapes
  tokens = prompts * width + prompts * group * reply
  blocks = 2.0 * roofline.linear_weights(config) * tokens
  return blocks + roofline.head_flops(config, shapes)


def update_flops(run: Run) -> tuple[float, float]:
  """Of an update as it is computed, and without what is computed again."""
  config, shapes = run.config, run.case.shapes
  work = roofline.update(
    config, shapes, run.microbatches, run.settings.moment_dtype
  )
  spared = frozen_flops(config, shapes)
  once = 3 * (
    roofline.blocks_flops(config, shapes) + roofline.head_flops(config, shapes)
  )
  return work.flops - spared, once - spared


def decoding_bytes(config: ModelConfig, shapes: Shapes) -> float:
  """What all turns of a rollout read at least: weights and cache, each turn.

  Of an embedding that is not the head, only a few rows are read.
  """
  one_table = dataclasses.replace(config, tied_head=True)
  weights = roofline.all_weights(one_table) * jnp.dtype(config.dtype).itemsize
  return shapes.reply_tokens * (weights + roofline.cache_bytes(config, shapes))
