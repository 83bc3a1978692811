"""Ways to read the same tokens, which the tests hold against each other."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import padded
import torch

from rlcw.models import decoder, layers
from rlcw.models import groups as groups_lib
from rlcw.models.config import ModelConfig
from rlcw.models.decoder import Decoder, Params
from rlcw.models.packing import Groups

LENGTHS = [3, 8, 5]  # of three briefs, padded to 8
GROUP, REPLY = 4, 6


@functools.partial(jax.jit, static_argnames='config')
def hidden(
  config: ModelConfig, params: Params, token_PxL: np.ndarray
) -> jax.Array:
  """The hidden states `[P, L, D]` of plain rows."""
  states, _ = Decoder(config).apply({'params': params}, token_PxL[:, None])
  return states[:, 0]


def logits(
  config: ModelConfig, params: Params, token_PxL: np.ndarray
) -> np.ndarray:
  head_VxD = np.asarray(decoder.head_weight(params))
  product = np.asarray(hidden(config, params, token_PxL)) @ head_VxD.T
  return np.asarray(layers.final_logits(config, product))


def torch_logits(theirs: Any, token_PxL: np.ndarray) -> np.ndarray:
  with torch.no_grad():
    return theirs(torch.from_numpy(token_PxL).long()).logits.numpy()


def briefs(pad: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Tokens of briefs `[P, L]`, their lengths, and replies `[P, G, T]`."""
  rng = np.random.default_rng(0)
  prompt_PxL = rng.integers(2, 300, (len(LENGTHS), max(LENGTHS)))
  for row_L, length in zip(prompt_PxL, LENGTHS, strict=True):
    row_L[length:] = pad
  token_PxGxT = rng.integers(2, 300, (len(LENGTHS), GROUP, REPLY))
  return prompt_PxL, np.array(LENGTHS), token_PxGxT


@functools.partial(jax.jit, static_argnames='config')
def shared(config: ModelConfig, params: Params, *inputs: Any) -> Any:
  """Replies on top of one copy of their brief."""
  return padded.forward_replies(config, params, *inputs)


@functools.partial(jax.jit, static_argnames='config')
def repeated(
  config: ModelConfig,
  params: Params,
  prompt_PxL: jax.Array,
  length_P: jax.Array,
  token_PxGxT: jax.Array,
) -> Any:
  """What `read_replies` returns, from rows that each hold brief and reply."""
  P, G, T = token_PxGxT.shape
  L = prompt_PxL.shape[1]
  row_PxGxL = jnp.pad(
    jnp.broadcast_to(prompt_PxL[:, None], (P, G, L)), ((0, 0), (0, 0), (0, T))
  )
  place_PxGxT = jnp.broadcast_to(
    length_P[:, None, None] + jnp.arange(T), (P, G, T)
  )
  row_PxGxL = jnp.put_along_axis(
    row_PxGxL, place_PxGxT, token_PxGxT, axis=2, inplace=False
  )
  states, _ = Decoder(config).apply({'params': params}, row_PxGxL)
  take = functools.partial(jnp.take_along_axis, states, axis=2)
  return take(place_PxGxT[..., None] - 1), take(place_PxGxT[..., None])


def loss(read: Callable[..., Any], config: ModelConfig) -> Callable[..., Any]:
  """A weighted sum of the replies' log-probabilities, and what `read` gave."""
  prompt_PxL, length_P, token_PxGxT = briefs()
  weight_N = np.random.default_rng(1).normal(size=token_PxGxT.size)

  def of(params: Params) -> tuple[jax.Array, Any]:
    states = read(config, params, prompt_PxL, length_P, token_PxGxT)
    logp_N = layers.token_logprobs(
      states[0].reshape(-1, states[0].shape[-1]),
      decoder.head_weight(params),
      token_PxGxT.reshape(-1),
      temperature=0.8,
      config=config,
    )
    return jnp.sum(jnp.asarray(weight_N, jnp.float32) * logp_N), states

  return of


def gradient(
  read: Callable[..., Any], config: ModelConfig, params: Params
) -> tuple[tuple[jax.Array, Any], Params]:
  """`loss` with its gradient."""
  of = jax.value_and_grad(loss(read, config), has_aux=True)
  return jax.jit(of)(params)


def distance(a: Params, b: Params) -> float:
  """The norm of the difference of two trees, relative to the second."""
  a_N, b_N = (
    np.concatenate(
      [np.ravel(leaf) for leaf in jax.tree.leaves(tree)], dtype=np.float64
    )
    for tree in (a, b)
  )
  return float(np.linalg.norm(a_N - b_N) / np.linalg.norm(b_N))


# --- Packed groups ----------------------------------------------------------


def sampled() -> Groups:
  """Groups of very different lengths; blank replies among them."""
  prompt_PxL, length_P, token_PxGxT = briefs()
  count_PxG = np.array([[6, 1, 3, 0], [2, 2, 6, 5], [1, 0, 0, 4]])
  return Groups(prompt_PxL, length_P, token_PxGxT, count_PxG)


def _scored(config: Any, groups: Groups, width: int, packed: bool) -> Any:
  """A weighted sum of the real tokens' log-probabilities, and all of them."""
  shape = groups.token.shape
  mask = np.arange(shape[-1]) < np.asarray(groups.count)[..., None]
  weight = np.random.default_rng(1).normal(size=shape) * mask

  def of(params: Any) -> tuple[jax.Array, jax.Array]:
    if packed:
      hidden, layout = groups_lib.forward_groups(config, params, groups, width)
      logp = groups_lib.reply_logprobs(
        config, params, hidden, layout, jnp.asarray(groups.token), 0.8
      )
    else:
      before, _ = padded.forward_replies(config, params, *groups[:3])
      logp = layers.token_logprobs(
        before.reshape(-1, before.shape[-1]),
        decoder.head_weight(params),
        jnp.asarray(groups.token).reshape(-1),
        0.8,
        config=config,
      ).reshape(shape)
    logp = jnp.where(mask, logp, 0.0)
    return (weight * logp).sum(), logp

  return jax.jit(jax.value_and_grad(of, has_aux=True))


@contextlib.contextmanager
def double(config: Any, params: Any) -> Iterator[tuple[Any, Any]]:
  """A model in float64, where what is equal differs by 1e-15."""
  # float32 is what the model names where it wants precision.
  with jax.enable_x64(True), mock.patch.object(jnp, 'float32', jnp.float64):
    yield (
      dataclasses.replace(config, dtype='float64'),
      jax.tree.map(lambda a: jnp.asarray(np.asarray(a), 'float64'), params),
    )


def assert_packing_changes_nothing(
  config: Any,
  params: Any,
  spare: Sequence[int] = (0, 7),
  bound: float = 1e-5,
) -> None:
  """In rows with so many places that are not filled."""
  groups = sampled()
  total = int(np.sum(groups.length) + np.sum(groups.count))
  (_, logp), grads = _scored(config, groups, 0, packed=False)(params)
  for more in spare:
    width = total + more
    (_, ours), own = _scored(config, groups, width, packed=True)(params)
    np.testing.assert_allclose(ours, logp, atol=bound, rtol=0)
    assert distance(own, grads) <= bound
