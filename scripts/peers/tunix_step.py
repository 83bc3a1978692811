"""Worker that takes single GRPO steps with tunix's GRPOLearner and sampler.

Needs `pip install google-tunix==0.1.7 jax==0.10.2`.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from peers import worker
from transformers import AutoConfig, AutoTokenizer
from tunix.models.llama3 import model as llama
from tunix.models.llama3 import params
from tunix.rl import rl_cluster
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
from tunix.rl.rollout.base_rollout import RolloutConfig

# EOS id that is never sampled, so that every reply has full length.
NEVER = -1


def load(folder: str, mesh: jax.sharding.Mesh) -> nnx.Module:
  """Loads a Llama from a folder with `config.json` and safetensors, in float32.

  Args:
    folder: the exported model.
    mesh: mesh for its parameters.
  """
  c = AutoConfig.from_pretrained(folder)
  config = llama.ModelConfig(
    num_layers=c.num_hidden_layers,
    vocab_size=c.vocab_size,
    embed_dim=c.hidden_size,
    hidden_dim=c.intermediate_size,
    num_heads=c.num_attention_heads,
    head_dim=c.head_dim,
    num_kv_heads=c.num_key_value_heads,
    rope_theta=int(c.rope_parameters['rope_theta']),
    norm_eps=c.rms_norm_eps,
    weight_tying=c.tie_word_embeddings,
  )
  return params.create_model_from_safe_tensors(
    folder, config, mesh, dtype=jnp.float32
  )


def settings(case: dict[str, Any], mesh: Any) -> rl_cluster.ClusterConfig:
  """One rollout and one update, with a KV cache of exactly their length."""
  # Clipping and b2 as in rlcw, so that both optimisers do the same work.
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adam(case['learning_rate'], b2=0.99),
  )
  roles, prompts = rl_cluster.Role, len(case['prompts'])
  return rl_cluster.ClusterConfig(
    role_to_mesh={role: mesh for role in (roles.ACTOR, roles.ROLLOUT)},
    rollout_engine='vanilla',
    training_config=rl_cluster.RLTrainingConfig(
      actor_optimizer=optimizer,
      max_steps=10**6,
      eval_every_n_steps=10**6,
      mini_batch_size=prompts,
      train_micro_batch_size=case['microbatch'],
      rollout_micro_batch_size=prompts,
      compute_logps_micro_batch_size=prompts,
    ),
    rollout_config=RolloutConfig(
      max_tokens_to_generate=case['reply_tokens'],
      max_prompt_length=case['prompt_tokens'],
      kv_cache_size=case['prompt_tokens'] + case['reply_tokens'],
      temperature=case['temperature'],
      # None: that of the tokenizer
      eos_tokens=None if case['natural'] else [NEVER],
    ),
  )


def main() -> None:
  case, clock = worker.read_case(), worker.Clock()
  mesh = jax.make_mesh(
    (1, 1), ('fsdp', 'tp'), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  cluster = rl_cluster.RLCluster(
    actor=load(case['model'], mesh),
    tokenizer=AutoTokenizer.from_pretrained(case['model']),
    cluster_config=settings(case, mesh),
  )
  lengths, replies = [], {}

  # tunix passes the other columns of the batch, here `word`.
  def reward(
    prompts: Any, completions: list[str], word: Any, **_: Any
  ) -> list[float]:
    rewards = worker.rewards(case, word, completions)
    replies['no_signal'] = worker.no_signal(rewards, case['group'])
    return rewards

  def generate(*args: Any, **kwargs: Any) -> Any:
    output = cluster_generate(*args, **kwargs)
    lengths[:] = map(len, output.tokens)
    return output

  # Wrap the cluster's sampler, which the learner calls once per batch.
  cluster_generate, cluster.generate = cluster.generate, clock.timed(generate)
  learner = GRPOLearner(
    rl_cluster=cluster,
    reward_fns=reward,
    algo_config=GRPOConfig(num_generations=case['group'], beta=0.0),
  )

  def batches() -> Iterator[dict[str, Any]]:
    """Yields a batch per command and answers it once its update is done.

    The learner requests the next batch as soon as it has dispatched an update.
    """
    for _ in clock.commands():
      yield {
        'prompts': np.array(case['prompts']),
        'word': np.array(case['words']),
      }
      # Dispatch is asynchronous: wait for the updated weights before answering.
      trainer = cluster.actor_trainer
      jax.block_until_ready(nnx.state(trainer.model))
      cut = sum(length == case['reply_tokens'] for length in lengths)
      # These tokens lack EOS.
      tokens = sum(lengths) + len(lengths) - cut
      clock.step_done(tokens, cut=cut / len(lengths), **replies)

  learner.train(batches())


if __name__ == '__main__':
  main()
