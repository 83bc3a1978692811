"""Replies that fit a JSON schema, whatever model writes them.

A schema becomes a regular expression, and that an automaton over the tokens of
a vocabulary (arXiv 2307.09702; outlines-core makes both).  As two arrays it
goes through the jitted rollout, which asks of every reply what token may come
next.  How far each state is from the end is known, so that a reply is whole
within its budget.

Letters: B replies, S states, V tokens.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from outlines_core import Index, Vocabulary, json_schema
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rlcw.models import tokenizer

_FAR = np.iinfo(np.int16).max


@struct.dataclass
class Grammar:
  """An automaton that reads tokens; replies begin in state 0."""

  next: jax.Array  # [S, V] int16, the state that a token leads to
  left: jax.Array  # [S, V] int16, how many more it then takes to the end

  def legal(self, state_B: jax.Array, budget: jax.Array | int) -> jax.Array:
    """Which tokens may come next, `[B, V]`, of `budget` that are left.

    After one of them the end can still be reached, if it can be now.
    """
    return self.left[state_B] < budget

  def read(self, state_B: jax.Array, token_B: jax.Array) -> jax.Array:
    """The states `[B]` that tokens lead to."""
    return self.next[state_B, token_B]


def of_schema(
  schema: dict[str, Any],
  text: PreTrainedTokenizerFast,
  vocab_size: int,
  max_new_tokens: int,
) -> Grammar:
  """The grammar of a JSON object, its fields in the schema's order.

  How long a text may be at most is left to whoever reads the reply: to count
  characters would take a state for each.

  Args:
    schema: as pydantic's `model_json_schema` makes it.
    text: the tokenizer.
    vocab_size: V, that of the model, which may be larger than the tokenizer's.
    max_new_tokens: the budget of replies.

  Raises:
    ValueError: the shortest object does not fit the budget.
  """
  found = _compiled(json.dumps(_countless(schema)), text, vocab_size)
  least = int(found.left[0].min()) + 1
  if least > max_new_tokens:
    raise ValueError(
      f'max_new_tokens={max_new_tokens}; legal: {least} or more, for the '
      f'shortest JSON of {schema.get("title", "the schema")}'
    )
  return found


def _countless(schema: Any) -> Any:
  """The schema without the greatest length of its texts."""
  if isinstance(schema, list):
    return [_countless(each) for each in schema]
  if not isinstance(schema, dict):
    return schema
  return {k: _countless(v) for k, v in schema.items() if k != 'maxLength'}


@functools.lru_cache(maxsize=8)
def _compiled(
  schema: str, text: PreTrainedTokenizerFast, vocab_size: int
) -> Grammar:
  eos = tokenizer.eos_ids(text)
  if not eos:
    raise ValueError('the tokenizer has no token that ends a reply')
  regex = json_schema.build_regex_from_schema(schema)
  index = Index(regex, Vocabulary(eos[0], _spelled(text)))
  start, final = index.get_initial_state(), index.get_final_states()
  moves = index.get_transitions()
  number = {state: n for n, state in enumerate({start: 0} | moves)}
  ended = len(number)
  next_SxV = np.full((ended + 1, vocab_size), -1, np.int16)
  for state, tokens in moves.items():
    next_SxV[number[state], [*tokens]] = [number[s] for s in tokens.values()]
  next_SxV[:, list(eos)] = -1
  next_SxV[np.ix_([number[s] for s in final], eos)] = ended
  next_SxV[ended] = ended  # whatever is drawn after the end is not kept
  left_S = _distances(next_SxV)
  left_SxV = np.where(next_SxV < 0, _FAR, left_S[next_SxV])
  return Grammar(jnp.asarray(next_SxV), jnp.asarray(left_SxV))


def _distances(next_SxV: np.ndarray) -> np.ndarray:
  """How many tokens `[S]` it takes from each state to the last one."""
  after = [np.unique(row_V[row_V >= 0]) for row_V in next_SxV[:-1]]
  left_S = np.full(len(next_SxV), _FAR, np.int16)
  left_S[-1] = 0
  before_S = np.zeros(0)
  while not np.array_equal(before_S, left_S):
    before_S = left_S.copy()
    for state, states in enumerate(after):
      left_S[state] = min(_FAR - 1, left_S[states].min(initial=_FAR)) + 1
  return left_S


def _spelled(text: PreTrainedTokenizerFast) -> dict[bytes | str, list[int]]:
  """What each token adds to a reply, in bytes, and the ids of that token."""
  by_bytes = 'ByteLevel' in str(text.backend_tokenizer.decoder)
  byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
  added = text.added_tokens_decoder  # control tokens, and whole pieces of HTML
  ids: dict[bytes | str, list[int]] = {}
  for token, id in text.get_vocab().items():
    if id in added:
      continue
    if by_bytes:
      spelled = bytes(byte_of[char] for char in token)
    elif len(token) == 6 and token.startswith('<0x'):
      spelled = bytes.fromhex(token[3:5])
    else:
      spelled = token.replace('▁', ' ').encode()
    ids.setdefault(spelled, []).append(id)
  return ids
