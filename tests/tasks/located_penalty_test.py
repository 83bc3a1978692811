"""A penalty on the tokens that break a rule, in a run and in its loss."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest
import tiny_grpo

from rlcw import losses
from rlcw.data import datasets
from rlcw.evaluation.page import underline


def test_only_located_tokens_have_a_lower_advantage() -> None:
  found = losses.located_advantages(
    jnp.array([-1.0, 2.0]), jnp.array([[0, 1, 1], [0, 0, 0]], bool), 0.5
  )
  assert found.tolist() == [[-1, -1.5, -1.5], [2, 2, 2]]


def test_the_loss_pushes_a_located_token_down_further() -> None:
  logp = jnp.full((2, 3), -1.0)
  mask = jnp.ones((2, 3), bool)

  def loss(logp: jax.Array, advantage: jax.Array) -> jax.Array:
    terms = losses.grpo(
      logp, jax.lax.stop_gradient(logp), advantage, mask, None
    )
    return terms.loss.numerator

  advantage = jnp.array([-1.0, 2.0])
  plain = jax.grad(loss)(logp, advantage)
  located = jnp.array([[0, 1, 0], [0, 0, 0]], bool)
  pushed = jax.grad(loss)(
    logp, losses.located_advantages(advantage, located, 0.5)
  )
  assert plain.tolist() == [[1, 1, 1], [-2, -2, -2]]
  assert (pushed - plain).tolist() == [[0, 0.5, 0], [0, 0, 0]]


def test_violators_learn_where_they_broke_a_rule(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  config = tiny_grpo.settings(
    apprentice,
    tmp_path,
    steps=1,
    writing='tiny_grpo:variety',
    mixing__located_penalty=0.5,
    kl_weight=0.0,
  )
  rule = {
    'instruction_id_list': ['keywords:forbidden_words'],
    'kwargs': [{'forbidden_words': ['moss', 'tin', 'lamp']}],
  }
  lines = [
    {'id': f'{n}', 'prompt': f'Write {n}.', 'split': 'train', **rule}
    for n in range(8)
  ]
  (tmp_path / 'briefs.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  (row,) = tiny_grpo.run(config, tmp_path / 'run')
  groups = datasets.read_jsonl(tmp_path / 'run' / 'rollouts.jsonl')
  replies = [reply for group in groups for reply in group['replies']]
  for reply in replies:
    words = [reply['text'][start:end] for start, end in reply['spans']]
    broken = [w for w in reply['text'].split() if w in ('moss', 'tin', 'lamp')]
    if not reply['violated']:
      assert words == []
    else:
      # neighbours with a space between them are two spans
      assert words == broken
  assert any(reply['spans'] for reply in replies)
  assert row['grad_norm'] > 0
  assert row['max_violator_advantage'] < 0


@pytest.mark.parametrize(
  ('spans', 'shown'),
  [([], 'a &lt;b&gt; c'), ([[2, 5]], 'a <u>&lt;b&gt;</u> c')],
)
def test_spans_are_underlined_in_escaped_text(
  spans: list[list[int]], shown: str
) -> None:
  assert str(underline('a <b> c', spans)) == shown


def test_the_note_on_a_cut_text_is_not_underlined() -> None:
  text = 'a' * 2500
  cut = str(underline(text))
  shown = str(underline(text, [[1990, 2490]]))
  assert shown == f'{cut[:1990]}<u>{cut[1990:2000]}</u>{cut[2000:]}'
  assert str(underline(text, [[2100, 2200]])) == cut
