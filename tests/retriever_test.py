"""A decoder as a retriever: ranks and projections."""

import jax.numpy as jnp
import numpy as np
import pytest
import retriever


def test_recalls_of_a_worked_example() -> None:
  cosine_NxN = np.eye(30)
  cosine_NxN[0, 1] = 2.0  # one reply is nearer
  cosine_NxN[1, 2:8] = 2.0  # six are
  cosine_NxN[2] = 3.0  # a tie is no nearer reply
  assert retriever.recalls(cosine_NxN) == pytest.approx([28 / 30, 29 / 30, 1.0])


def test_projections_find_what_is_common() -> None:
  """Queries and replies share six directions among much noise."""
  rng = np.random.default_rng(0)

  def pairs(count: int) -> list[jnp.ndarray]:
    common_Nx6 = rng.normal(size=(count, 6))
    noise = rng.normal(size=(2, count, 30)) / 2
    return [
      jnp.asarray(np.concatenate([common_Nx6, noise[0]], 1)),
      jnp.asarray(np.concatenate([noise[1], common_Nx6], 1)),
    ]

  weights = retriever.fit(*pairs(400))
  query, reply = pairs(100)

  def found(one: jnp.ndarray, other: jnp.ndarray) -> float:
    cosine = retriever.unit(one) @ retriever.unit(other).T
    return retriever.recalls(np.asarray(cosine))[1]

  assert found(query @ weights[0], reply @ weights[1]) > 0.5
  assert found(query, reply) < 0.2
