"""What is held in memory: importing a checkpoint, and training adapters."""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import quick
from padded import forward_replies

from rlcw import losses, train
from rlcw.models import layers, lora, weights
from rlcw.models.config import LoraConfig
from rlcw.models.decoder import head_weight
from rlcw.runtime.mesh import make_mesh

MIB = 2**20


@pytest.mark.parametrize('devices', quick([1, 8], 8))
def test_an_import_holds_the_parameters_and_one_tensor_more(
  devices: int, make_llama: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
  llama = make_llama(
    vocab_size=4000,
    hidden_size=1024,
    intermediate_size=2816,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=8,
  )
  llama.save_pretrained(tmp_path, max_shard_size='50MB')
  script = pathlib.Path(__file__).parents[1] / 'import_memory.py'
  found = subprocess.run(
    [sys.executable, str(script), str(tmp_path), str(devices)],
    capture_output=True,
    text=True,
    check=True,
    cwd=script.parents[1],
    env={'PATH': '/usr/bin:/bin', 'PYTHONPATH': str(script.parents[1])},
  )
  told = json.loads(found.stdout)
  assert told['params'] > 300 * MIB
  assert told['rise'] > 0.9 * told['params']  # it measures what it says
  # a mapped file's pages count too: a tensor as stored and as cast
  assert told['rise'] <= told['params'] + 2 * told['largest_tensor'] + 8 * MIB


@pytest.mark.slow
def test_frozen_weights_have_no_gradient_and_no_moments(
  tiny_folder: pathlib.Path,
) -> None:
  mesh = make_mesh(devices=jax.devices()[:1])
  config, base = weights.load(tiny_folder, mesh)
  config = dataclasses.replace(
    config, lora=LoraConfig(2, 4.0, ('query', 'down'))
  )
  adapters, frozen = lora.split(config, base, mesh, seed=0)
  assert frozen is base  # the reference policy is not a second copy
  held = sum(leaf.nbytes for leaf in jax.tree.leaves(adapters))
  whole = sum(leaf.nbytes for leaf in jax.tree.leaves(base))
  assert 0 < held < whole / 4
  optimizer = optax.adam(1e-2)
  state = train.init_state(adapters, optimizer, mesh)
  moments = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
  assert moments <= 2 * held + 64

  def loss_fn(params: Any, frozen: Any, arrays: Any) -> dict[str, losses.Ratio]:
    params = lora.join(params, frozen)
    hidden, _ = forward_replies(config, params, *arrays)
    logp_N = layers.token_logprobs(
      hidden.reshape(-1, hidden.shape[-1]),
      head_weight(params),
      arrays[2].reshape(-1),
    )
    return {'loss': losses.cross_entropy(logp_N, jnp.ones(logp_N.shape, bool))}

  arrays = (np.full((1, 4), 3), np.array([4]), np.full((1, 2, 4), 5))
  update = train.make_update(loss_fn, optimizer, state)
  jaxpr = jax.make_jaxpr(update)(state, [arrays], frozen)
  returned = sum(math.prod(a.shape) * a.dtype.itemsize for a in jaxpr.out_avals)
  assert returned <= 3 * held + 256  # adapters and two moments of each
  before = jax.tree.map(np.asarray, base)
  state, _ = update(state, [arrays], frozen)
  jax.tree.map(np.testing.assert_array_equal, before, base)


def test_the_gradient_of_a_frozen_kernel_is_never_made(
  tiny_folder: pathlib.Path,
) -> None:
  """No array of a kernel's shape comes out of any product of the update."""
  mesh = make_mesh(devices=jax.devices()[:1])
  config, base = weights.load(tiny_folder, mesh)
  config = dataclasses.replace(config, lora=LoraConfig(2, 4.0, ('gate',)))
  adapters, frozen = lora.split(config, base, mesh, seed=0)
  arrays = (np.full((1, 4), 3), np.array([4]), np.full((1, 2, 4), 5))

  def loss(learned: Any, rest: Any) -> jax.Array:
    hidden, _ = forward_replies(config, lora.join(learned, rest), *arrays)
    return hidden.sum()

  kernel = f'f32[{config.mlp_dim},{config.model_dim}] = dot_general'

  def products(gradient: Any) -> int:
    text = str(jax.make_jaxpr(gradient)(adapters, frozen))
    return text.replace(':', ' ').count(kernel)

  whole = jax.grad(lambda a, b: loss(a, b), argnums=(0, 1))
  assert products(whole) > 0
  assert products(jax.grad(loss)) == 0
