"""Two turns in a rollout: what is drawn, what is given, and where rows end."""

from typing import Any
from unittest import mock

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import padded
import pytest

from rlcw.models import decoder, layers
from rlcw.runtime.mesh import make_mesh, over_groups
from rlcw.runtime.metrics import Compilations
from rlcw.sampling import decoding, turns
from rlcw.sampling import rollout as rollout_lib
from rlcw.sampling.decoding import Rollout, Rows, Setup
from rlcw.sampling.samplers import Temperature

END, STOP = 1, 2  # of the scripted rows
BUDGET = 9
# Shapes are the same in all examples, or each would compile its programs.
ROWS, LONGEST = 12, 4


def spoken(
  script: list[int], request: list[int]
) -> tuple[list[int], list[bool], bool]:
  """A row by the rules of two turns: tokens, the given ones, and its end."""
  row: list[int] = []
  given: list[bool] = []
  turn = 1
  while len(row) < BUDGET:
    token = script[len(row)]
    row.append(token)
    given.append(False)
    if token == STOP or (token == END and turn == 2):
      return row, given, token == END
    if token == END:
      turn, room = 2, BUDGET - len(row)
      row += request[:room]
      given += [True] * len(request[:room])
  return row, given, False


def scripted(scripts: np.ndarray, requests: list[list[int]]) -> Rollout:
  """A rollout `[P, 1, T]` whose rows draw the tokens of their scripts."""
  count = np.array([len(request) for request in requests], np.int32)
  token = np.zeros((len(requests), LONGEST), np.int32)
  for row, request in zip(token, requests, strict=True):
    row[: len(request)] = request
  setup: Any = Setup(
    mock.Mock(vocab_size=9), BUDGET, (END,), (STOP,), mock.Mock(), False
  )
  shape = (len(scripts), 1)
  rows = Rows(
    rollout=decoding.empty_rollout(*shape, BUDGET, two_turns=True),
    last=jnp.zeros(shape, jnp.int32),
    key=jnp.zeros(shape),
    state=jnp.zeros(shape, jnp.int16),
    origin=jnp.zeros(shape, jnp.int32),
    length=jnp.ones(len(scripts), jnp.int32),
    second=turns.begin(jnp.asarray(token), jnp.asarray(count), 1),
  )
  hidden: Any = None
  for t in range(BUDGET):
    drawn = jnp.asarray(scripts[:, None, t]), jnp.full(shape, -1.0)
    with mock.patch.object(decoding, 'draw', lambda *_, d=drawn: d):
      rows = decoding.add_token(rows, hidden, hidden, t, hidden, None, setup)
  last = np.asarray(rows.rollout.length) - 1
  ends = np.take_along_axis(np.asarray(rows.rollout.token), last[..., None], -1)
  whole = rows.rollout.finished & (ends[..., 0] != STOP)  # `mark_cut`
  return rows.rollout.replace(finished=whole)


@hypothesis.settings(max_examples=25)
@hypothesis.given(data=st.data())
def test_a_row_has_its_request_between_two_replies(data: Any) -> None:
  tokens = st.lists(
    st.sampled_from([END, END, STOP, 3, 4, 5, 6]),
    min_size=BUDGET,
    max_size=BUDGET,
  )
  # A request may have tokens that end or cut a reply: they do neither.
  request = st.lists(
    st.sampled_from([END, STOP, 7, 8]), min_size=1, max_size=LONGEST
  )
  pairs = data.draw(
    st.lists(st.tuples(tokens, request), min_size=ROWS, max_size=ROWS)
  )
  scripts = np.array([script for script, _ in pairs], np.int32)
  rollout = scripted(scripts, [request for _, request in pairs])
  replies, given_PxGxT = rollout.last_reply(), np.asarray(rollout.given)
  for p, (script, request) in enumerate(pairs):
    row, given, finished = spoken(script, request)
    padding = [0] * (BUDGET - len(row))
    assert rollout.token[p, 0].tolist() == row + padding
    assert given_PxGxT[p, 0].tolist() == given + [False] * len(padding)
    assert rollout.length[p, 0] == len(row)
    assert bool(rollout.finished[p, 0]) == finished
    drawn = [not each for each in given]
    assert rollout.drawn[p, 0].tolist() == drawn + [False] * len(padding)
    assert rollout.drawn_length[p, 0] == sum(drawn)
    assert rollout.logp[p, 0].tolist() == [-float(d) for d in drawn] + padding
    place = len(given) - given[::-1].index(True) if any(given) else len(row)
    second = row[place:]
    assert replies.length[p, 0] == len(second)
    rest = [0] * (BUDGET - len(second))
    assert replies.token[p, 0].tolist() == second + rest
    assert replies.logp[p, 0].tolist() == [-1.0] * len(second) + rest
    assert replies.given is None


def test_in_one_turn_the_last_reply_is_the_rollout() -> None:
  rollout = decoding.empty_rollout(1, 2, 3)
  assert rollout.last_reply() is rollout
  assert rollout.drawn_length is rollout.length


# --- On a model -------------------------------------------------------------

LENGTHS = np.array([3, 8, 5], np.int32)
EOS = tuple(range(0, 300, 12))  # frequent, so that most rows have two turns
# Ends are among the tokens of the requests.
REQUESTS = np.array([[24, 7, 9, 0], [5, 36, 0, 0], [8, 8, 8, 12]], np.int32)
COUNTS = np.array([3, 2, 4], np.int32)


def prompts() -> np.ndarray:
  prompt_PxL = np.random.default_rng(0).integers(0, 300, (3, 8))
  real_PxL = np.arange(8) < LENGTHS[:, None]
  return np.where(real_PxL, prompt_PxL, 0).astype(np.int32)


def draw(tiny: Any, step: int = 0, gather: bool = False) -> Rollout:
  config, params = tiny
  rollout = rollout_lib.sample(
    params,
    prompts(),
    LENGTHS,
    np.array([11, 7, 300], np.int32),
    Temperature(0.9),
    0,
    step,
    second=(REQUESTS, COUNTS),
    config=config,
    group_size=8,
    max_new_tokens=24,
    eos=EOS,
    stop=(5,),
    gather=gather,
  )
  return jax.tree.map(np.asarray, rollout)


def test_log_probabilities_are_those_of_the_whole_conversation(
  tiny: Any,
) -> None:
  """Teacher-forced: the brief, both replies, and the request between them."""
  config, params = tiny
  rollout = draw(tiny)
  predicting, _ = jax.jit(padded.forward_replies, static_argnums=0)(
    config, params, prompts(), LENGTHS, rollout.token
  )
  logp_N = layers.token_logprobs(
    predicting.reshape(-1, config.model_dim),
    decoder.head_weight(params),
    rollout.token.reshape(-1),
    0.9,
  )
  drawn_PxGxT = np.asarray(rollout.drawn)
  logp_PxGxT = np.where(drawn_PxGxT, logp_N.reshape(drawn_PxGxT.shape), 0)
  np.testing.assert_allclose(rollout.logp, logp_PxGxT, atol=1e-4, rtol=0)
  second = (rollout.last_reply().length > 0) & rollout.finished
  assert second.sum() > 4 and not second.all()
  given_PxGxT = np.asarray(rollout.given)
  for p, g in zip(*np.nonzero(second), strict=True):
    given = np.flatnonzero(given_PxGxT[p, g])
    request = REQUESTS[p, : COUNTS[p]]
    np.testing.assert_array_equal(rollout.token[p, g, given], request)
    assert rollout.token[p, g, given[0] - 1] in EOS


def test_rows_are_gathered_with_their_requests(tiny: Any) -> None:
  whole, gathered = draw(tiny), draw(tiny, gather=True)
  for name in ('token', 'length', 'finished', 'given'):
    np.testing.assert_array_equal(getattr(gathered, name), getattr(whole, name))


def test_another_step_compiles_nothing(tiny: Any) -> None:
  draw(tiny)
  compilations = Compilations()
  draw(tiny, step=1)
  assert compilations.count == 0


@pytest.mark.slow
def test_two_turns_are_the_same_on_eight_devices(tiny: Any) -> None:
  """Eight briefs, split over the devices, and their rows gathered."""
  config, params = tiny
  rows = np.arange(8) % 3
  inputs = prompts()[rows], LENGTHS[rows], np.arange(8, dtype=np.int32)
  found = []
  for devices in (1, 8):
    mesh = make_mesh(devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
      arrays, second = jax.device_put(
        (inputs, (REQUESTS[rows], COUNTS[rows])), over_groups(mesh)
      )
      rollout = rollout_lib.sample(
        params,
        *arrays,
        Temperature(0.9),
        0,
        0,
        second=second,
        config=config,
        group_size=16,
        max_new_tokens=24,
        eos=EOS,
        gather=True,
      )
    found.append(jax.tree.map(np.asarray, rollout))
  for name in ('token', 'length', 'finished', 'given'):
    np.testing.assert_array_equal(*(getattr(each, name) for each in found))
