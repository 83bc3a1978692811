"""Two turns in one row: a reply, a second request, and the reply to that.

After the token that ends its first reply, a row goes on with the tokens of the
user's second message, which are given and not drawn, and then with the second
reply.  Both replies and the message share the budget of the row, and one cache:
no token is read twice.

Shape letters: P prompts (or tiles), G replies to each, S tokens of a message.
"""

import jax
import jax.numpy as jnp
from flax import struct


class Turn(struct.PyTreeNode):
  """The second request of each row, and how much of it the row has."""

  token: jax.Array  # [P, G, S] ids, padded on the right
  count: jax.Array  # [P, G] int32, of them
  place: jax.Array  # [P, G] int32, of the next one; −1 in the first reply

  @property
  def first(self) -> jax.Array:
    """True `[P, G]` where the next token is of the first reply."""
    return self.place < 0

  @property
  def given(self) -> jax.Array:
    """True `[P, G]` where the next token is of the request."""
    return ~self.first & (self.place < self.count)

  @property
  def next(self) -> jax.Array:
    """The next token `[P, G]` of the request, where it is of that."""
    at_PxGx1 = jnp.clip(self.place, 0, self.token.shape[-1] - 1)[..., None]
    return jnp.take_along_axis(self.token, at_PxGx1, -1)[..., 0]

  def advance(self, ends_PxG: jax.Array) -> 'Turn':
    """Returns the state after a token.

    Args:
      ends_PxG: true where a token that was drawn ends a reply.
    """
    begun_PxG = jnp.where(self.first & ends_PxG, 0, self.place)
    return self.replace(place=jnp.where(self.given, self.place + 1, begun_PxG))


def begin(token_PxS: jax.Array, count_P: jax.Array, group_size: int) -> Turn:
  """Returns the second requests of P briefs, before their first replies."""
  shape_PxG = len(count_P), group_size
  return Turn(
    jnp.broadcast_to(token_PxS[:, None], (*shape_PxG, token_PxS.shape[-1])),
    jnp.broadcast_to(count_P[:, None], shape_PxG),
    jnp.full(shape_PxG, -1, jnp.int32),
  )
