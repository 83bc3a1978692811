"""Constrained decoding: replies of any model that fit a JSON schema.

outlines-core compiles a schema to a regular expression, and that to an
automaton over the tokens of a vocabulary (arXiv 2307.09702).  As two arrays the
automaton is passed to the jitted rollout, which masks the tokens that may not
come next.  The distance of each state to the end is known, so that every reply
is complete within its token budget.

Shape letters: B replies, S states, V tokens.
"""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from outlines_core import Index, Vocabulary, json_schema
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rlcw.models.chat import ChatFormat

_UNREACHABLE = np.iinfo(np.int16).max


@struct.dataclass
class Grammar:
  """Automaton over tokens; replies begin in state 0."""

  next: jax.Array  # [S, V] int16, the state after a token; -1 if not allowed
  left: jax.Array  # [S, V] int16, the fewest tokens to the end after a token

  def allowed(self, state_B: jax.Array, budget: jax.Array | int) -> jax.Array:
    """Returns which tokens may come next, `[B, V]`.

    Args:
      state_B: states of the replies.
      budget: tokens left for each reply, the next one included.
    """
    # Every token after which the end is still within the budget.  Tokens that
    # the grammar forbids have a distance above any budget.
    return self.left[state_B] < budget

  def advance(self, state_B: jax.Array, token_B: jax.Array) -> jax.Array:
    """Returns the states `[B]` after one more token each."""
    return self.next[state_B, token_B]


def of_schema(
  schema: dict[str, Any],
  chat: ChatFormat,
  vocab_size: int,
  max_new_tokens: int,
) -> Grammar:
  """Compiles the grammar of a JSON object, with fields in the schema's order.

  Maximal lengths of texts are ignored, because counting characters would take
  a state for each; the reader of a reply must check them.

  Args:
    schema: from pydantic's `model_json_schema`.
    chat: of the model.
    vocab_size: V of the model, which may exceed the tokenizer's.
    max_new_tokens: token budget of a reply, EOS included.

  Raises:
    ValueError: the shortest object does not fit the budget.
  """
  compiled = _compile(json.dumps(_without_max_length(schema)), chat, vocab_size)
  shortest = int(compiled.left[0].min()) + 1
  if shortest > max_new_tokens:
    raise ValueError(
      f'max_new_tokens={max_new_tokens}; expected {shortest} or more, for the '
      f'shortest JSON of {schema.get("title", "the schema")}'
    )
  return compiled


def _without_max_length(schema: Any) -> Any:
  """Removes the maximal lengths of texts, at all levels."""
  if isinstance(schema, list):
    return [_without_max_length(item) for item in schema]
  if not isinstance(schema, dict):
    return schema
  return {
    key: _without_max_length(value)
    for key, value in schema.items()
    if key != 'maxLength'
  }


# Cached, because compilation is slow and a task uses few schemas.  The schema
# is passed as text, which is hashable.
@functools.lru_cache(maxsize=8)
def _compile(schema: str, chat: ChatFormat, vocab_size: int) -> Grammar:
  eos = chat.eos_ids
  regex = json_schema.build_regex_from_schema(schema)
  index = Index(regex, Vocabulary(eos[0], _token_bytes(chat.tokenizer)))
  start, final = index.get_initial_state(), index.get_final_states()
  transitions = index.get_transitions()
  # The index's state numbers are arbitrary; ours begin with the start, 0.
  number = {state: n for n, state in enumerate({start: 0} | transitions)}
  ended = len(number)  # one more state, after EOS
  next_SxV = np.full((ended + 1, vocab_size), -1, np.int16)
  for state, tokens in transitions.items():
    next_SxV[number[state], [*tokens]] = [number[s] for s in tokens.values()]
  # The index allows its one EOS only; all of the model's end a reply.
  next_SxV[:, list(eos)] = -1
  next_SxV[np.ix_([number[s] for s in final], eos)] = ended
  # The rollout discards tokens after the end, but still needs some to draw: a
  # softmax over no token is NaN.
  next_SxV[ended] = ended
  left_S = _distances(next_SxV)
  left_SxV = np.where(next_SxV < 0, _UNREACHABLE, left_S[next_SxV])
  return Grammar(jnp.asarray(next_SxV), jnp.asarray(left_SxV))


def _distances(next_SxV: np.ndarray) -> np.ndarray:
  """Fewest tokens `[S]` from each state to the last one (Bellman–Ford)."""
  successors = [np.unique(row_V[row_V >= 0]) for row_V in next_SxV[:-1]]
  left_S = np.full(len(next_SxV), _UNREACHABLE, np.int16)
  left_S[-1] = 0
  previous_S = np.zeros(0)
  while not np.array_equal(previous_S, left_S):
    previous_S = left_S.copy()
    for state, states in enumerate(successors):
      nearest = left_S[states].min(initial=_UNREACHABLE)
      # Capped before the addition, which would overflow int16.
      left_S[state] = min(_UNREACHABLE - 1, nearest) + 1
  return left_S


def _token_bytes(
  tokenizer: Any,
) -> dict[bytes | str, list[int]]:
  """Ids of the tokens by the bytes that they add to a reply."""
  byte_level = 'ByteLevel' in str(tokenizer.backend_tokenizer.decoder)
  byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
  # Control tokens, which add nothing to a reply, and pieces of HTML (Gemma).
  added = tokenizer.added_tokens_decoder
  ids: dict[bytes | str, list[int]] = {}
  for token, id in tokenizer.get_vocab().items():
    if id in added:
      continue
    # GPT-2's byte-level BPE spells every byte as a printable character.
    if byte_level:
      content = bytes(byte_of[char] for char in token)
    # SentencePiece falls back to bytes, '<0x0A>', for unknown characters…
    elif len(token) == 6 and token.startswith('<0x'):
      content = bytes.fromhex(token[3:5])
    # … and spells a space as U+2581.
    else:
      content = token.replace('▁', ' ').encode()
    ids.setdefault(content, []).append(id)
  return ids
