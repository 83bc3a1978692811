"""Answers of models that know no JSON, held to a schema."""

import json
from typing import Any

import jax
import numpy as np
import pydantic
import pytest

from rlcw.models import tokenizer
from rlcw.models.chat import ChatFormat
from rlcw.sampling import grammar, samplers
from rlcw.sampling import rollout as rollout_lib
from rlcw.sampling.grammar import Grammar
from rlcw.tasks.adversary.agents import Generation, Reflection
from rlcw.tasks.adversary.strategy import Rules
from rlcw.tasks.curate.debate import SCHEMAS

ALL = [*dict.fromkeys([*SCHEMAS.values(), Generation, Reflection, Rules])]
TEXTS = ['{"judge": 1}', 'Ein Gruß, 愿你 🎂, "so"\\n', 'a b']


@pytest.fixture(scope='module')
def text(tiny_folder: Any) -> Any:
  return tokenizer.load(tiny_folder)


def _grammar(schema: Any, text: Any, config: Any, budget: int) -> Grammar:
  form = schema.model_json_schema()
  return grammar.of_schema(form, ChatFormat(text), config.vocab_size, budget)


def _replies(
  tiny: Any, text: Any, schema: Any, budget: int, method: Any
) -> list[str]:
  config, params = tiny
  rollout = rollout_lib.sample(
    params,
    np.array([[5, 6, 7], [8, 9, 0]]),
    np.array([3, 2]),
    np.array([1, 2]),
    method,
    0,
    0,
    _grammar(schema, text, config, budget),
    config=config,
    group_size=8,
    max_new_tokens=budget,
    eos=ChatFormat(text).eos_ids,
  )
  assert rollout.finished.all()
  assert np.isfinite(rollout.logp).all()
  return [
    ChatFormat(text).decode_reply(ids[:n])
    for ids, n in zip(
      rollout.token.reshape(16, -1), rollout.length.reshape(-1), strict=True
    )
  ]


@pytest.mark.parametrize(
  'schema',
  [ALL[0], *(pytest.param(s, marks=pytest.mark.slow) for s in ALL[1:])],
  ids=lambda schema: schema.__name__,
)
def test_whatever_is_drawn_fits(schema: Any, tiny: Any, text: Any) -> None:
  replies = _replies(tiny, text, schema, 100, samplers.Temperature(1.0))
  for reply in replies:
    # A JSON schema cannot say that blank text is none.
    given = {
      name: 'x' if isinstance(value, str) and not value.strip() else value
      for name, value in json.loads(reply).items()
    }
    schema.model_validate(given)
  assert len(set(replies)) > 8


@pytest.mark.parametrize(
  'method',
  [
    samplers.Greedy(),
    pytest.param(samplers.TopK(3, 2.0), marks=pytest.mark.slow),
  ],
)
def test_the_budget_is_enough_for_what_is_begun(
  method: Any, tiny: Any, text: Any
) -> None:
  class Short(pydantic.BaseModel):
    reason: str
    good: bool

  least = len(tokenizer.encode(text, '{"reason":"","good":true}'))
  with pytest.raises(
    ValueError, match='max_new_tokens=4; expected .* of Short'
  ):
    _grammar(Short, text, tiny[0], 4)
  for budget in (least + 1, least + 4):  # and EOS
    for reply in _replies(tiny, text, Short, budget, method):
      assert set(json.loads(reply)) == {'reason', 'good'}


@pytest.mark.slow
def test_without_a_grammar_nothing_changes(tiny: Any, text: Any) -> None:
  """One that allows everything draws what is drawn without any."""
  config, _ = tiny
  shape = (2, config.vocab_size)
  free = Grammar(np.zeros(shape, np.int16), np.zeros(shape, np.int16))
  inputs = tiny[1], np.array([[5, 6]]), np.array([2]), np.array([1])
  static = {'config': config, 'group_size': 2, 'max_new_tokens': 9, 'eos': (3,)}
  plain, held = (
    rollout_lib.sample(*inputs, samplers.Temperature(1.0), 0, 0, g, **static)
    for g in (None, free)
  )
  jax.tree.map(np.testing.assert_array_equal, plain, held)


@pytest.mark.parametrize(
  'path',
  [
    'tiny_folder',
    'smollm2_path',
    pytest.param('gemma_path', marks=pytest.mark.slow),  # 262,144 tokens
  ],
)
def test_a_token_is_what_it_adds_to_a_reply(
  path: str, request: pytest.FixtureRequest
) -> None:
  one = tokenizer.load(request.getfixturevalue(path))
  spelled = {
    id: word for word, ids in grammar._token_bytes(one).items() for id in ids
  }
  for sample in TEXTS:
    ids = tokenizer.encode(one, sample)
    assert b''.join(spelled[id] for id in ids) == sample.encode()


def test_lengths_are_left_to_the_reader(text: Any, tiny: Any) -> None:
  few = _grammar(Rules, text, tiny[0], 100)
  assert len(few.next) < 500  # with a state for each character: thousands
