"""Two turns in the loss, and in runs of `grpo` and `evaluate`."""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import padded
import pipeline
import pytest
import tiny_grpo
import train_test
from cases import quick
from ml_collections import ConfigDict
from train_test import CONFIG, SETTINGS, G, P, T

from rlcw import losses
from rlcw.data import datasets
from rlcw.models import decoder, layers
from rlcw.rewards import constraints, motivation, revision
from rlcw.runtime.mesh import over_groups
from rlcw.tasks.grpo import objective


def given() -> np.ndarray:
  """Two tokens of the middle of every reply `[P, G, T]`, where it has them."""
  place_T = np.arange(T)
  return np.broadcast_to((place_T == 2) | (place_T == 3), (P, G, T))


@pytest.mark.parametrize(
  'aggregation', quick(losses.AGGREGATIONS, 'token_mean')
)
def test_given_tokens_have_no_gradient(aggregation: str) -> None:
  """Loss and gradient are those of padded arrays and a mask made by hand."""
  config: Any = ConfigDict(
    SETTINGS.to_dict() | {'aggregation': aggregation, 'microbatch_groups': P}
  )
  mesh = train_test.single()
  arrays, params = train_test.make_arrays(mesh), train_test.make_params(mesh)
  rollout, place = arrays['rollout'], over_groups(mesh)
  lengths = np.asarray(arrays['length']), np.asarray(rollout.length)
  mask = (np.arange(T) < lengths[1][..., None]) & ~given()

  def reference(params: Any) -> jax.Array:
    predicting, _ = padded.forward_replies(
      CONFIG, params, arrays['prompt'], arrays['length'], rollout.token
    )
    logp_N = layers.token_logprobs(
      predicting.reshape(-1, CONFIG.model_dim),
      decoder.head_weight(params),
      rollout.token.reshape(-1),
      config.temperature,
    )
    terms = losses.grpo(
      logp_N.reshape(-1, T),
      rollout.logp.reshape(-1, T),
      arrays['advantage'].reshape(-1),
      jnp.asarray(mask).reshape(-1, T),
      arrays['ref_logp'].reshape(-1, T),
      clip_low=config.clip_low,
      clip_high=config.clip_high,
      kl_weight=config.kl_weight,
      aggregation=aggregation,
    )
    return terms.loss.quotient

  loss_fn = objective.make_loss(CONFIG, config)
  # Whatever stands at given tokens in the sampler's and the reference's row.
  noise = np.where(given(), 7.0, 0.0).astype('float32')
  marked = arrays | {
    'rollout': rollout.replace(
      given=jax.device_put(given(), place), logp=rollout.logp + noise
    ),
    'ref_logp': arrays['ref_logp'] + noise,
  }
  packed = objective.pack(marked, lengths, config, place)
  (part,) = packed.parts

  def loss(params: Any) -> jax.Array:
    return loss_fn(params, {}, part)['loss'].numerator / packed.divisor

  found, wanted = (
    jax.jit(jax.value_and_grad(f))(params) for f in (loss, reference)
  )
  assert float(found[0]) == pytest.approx(float(wanted[0]), rel=1e-4)
  train_test.assert_close(found[1], wanted[1], 2e-5)


# --- Runs -------------------------------------------------------------------

WORDS = 'Now:', 'Again.', 'Better.'
RULE = {'forbidden_words': ['moss', 'tin']}


def write(
  apprentice: pathlib.Path, folder: pathlib.Path, **changes: Any
) -> ConfigDict:
  """Settings of a run with short second turns, and its briefs."""
  config = tiny_grpo.settings(
    apprentice,
    folder,
    **{
      'steps': 2,
      'writing': 'tiny_grpo:variety',
      'two_turns': True,
      'max_new_tokens': 64,
      'prompts_per_step': 4,
      'microbatch_groups': 4,
    }
    | changes,
  )
  lines = [
    {
      'id': f'{n}',
      'prompt': f'Write {n}, no moss.',
      'instruction_id_list': ['keywords:forbidden_words'],
      'kwargs': [RULE],
      'stated': True,
      'split': 'train' if n < 8 else 'heldout',
    }
    for n in range(12)
  ]
  (folder / 'briefs.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  return config


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
  """The tiny tokenizer would make many tokens of the shipped requests."""
  monkeypatch.setattr(revision, '_REQUESTS', {'en': WORDS})
  monkeypatch.setattr(motivation, '_NOTES', {'en': ('Scoring.',) * 3})


def groups_of(workdir: pathlib.Path) -> list[dict[str, Any]]:
  return datasets.read_jsonl(workdir / 'rollouts.jsonl')


ALL = {
  'updates_per_rollout': 2,
  'tis': 2.0,
  'entropy_weight': 0.01,
  'oversample': 1.5,
  'tell_scoring': True,
  'overlong_buffer': 8,
  'mixing__located_penalty': 0.5,
  'eval_every': 2,
  'eval__briefs': 4,
}


def test_a_run_scores_the_second_reply(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  """With all that goes with two turns."""
  config = write(apprentice, tmp_path, **ALL)
  rows = tiny_grpo.run(config, tmp_path / 'run')
  groups = groups_of(tmp_path / 'run')
  replies = [reply for group in groups for reply in group['replies']]
  for group in groups:
    assert group['turns'] == [group['prompt'], 'Again.'] and group['note']
  for reply in replies:
    verdicts = constraints.follow(
      reply['text'], ['keywords:forbidden_words'], [RULE]
    )
    assert reply['follow'] == verdicts
    kept = verdicts == [True] and reply['finished']
    assert reply['violated'] == (not kept)
    assert 'Again' not in reply['draft'] + reply['text']
    assert 'Scoring' not in reply['draft'] + reply['text']
    assert reply['length'] >= len(reply['text'].split())
    for start, end in reply['spans']:
      assert reply['text'][start:end] in ('moss', 'tin')
  assert any(reply['spans'] for reply in replies)
  both = [r for r in replies if r['draft'] and r['text']]
  assert any(reply['draft'] != reply['text'] for reply in both)
  for row in rows:
    assert row['sampler_gap'] < 1e-3 and row['grad_norm'] > 0
    assert row['max_violator_advantage'] < 0
    step = [g for g in groups if g['step'] == row['step']]
    length = np.array([r['length'] for g in step for r in g['replies']])
    assert row['length_mean'] == pytest.approx(length.mean())
    assert row['unrevised'] == pytest.approx((length == 0).mean())
  evaluated = datasets.read_jsonl(tmp_path / 'run' / 'evaluations.jsonl')
  assert all('draft' in r for group in evaluated for r in group['replies'])


@pytest.mark.slow
def test_a_run_of_two_turns_resumes(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  config = write(apprentice, tmp_path, **ALL | {'steps': 3})
  rows = tiny_grpo.run(config, tmp_path / 'run')
  config.steps = 2
  tiny_grpo.run(config, tmp_path / 'resumed')
  config.steps = 3
  again = tiny_grpo.run(config, tmp_path / 'resumed')
  assert groups_of(tmp_path / 'resumed') == groups_of(tmp_path / 'run')
  for name in ('loss', 'grad_norm', 'entropy', 'eval/writing'):
    assert [r.get(name) for r in again] == [r.get(name) for r in rows]


@pytest.mark.slow
def test_the_reference_reads_both_turns(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  """Before the first update it is the policy."""
  (row,) = tiny_grpo.run(write(apprentice, tmp_path, steps=1), tmp_path / 'run')
  assert abs(row['kl']) < 1e-6 and row['sampler_gap'] < 1e-4
  assert row['clip_fraction'] == 0 and row['grad_norm'] > 0


def test_a_run_refuses_what_does_not_go_with_two_turns(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  config = write(apprentice, tmp_path, mixing__all_violating='relabel')
  with pytest.raises(ValueError, match='relabel.*does not fit two_turns'):
    tiny_grpo.run(config, tmp_path / 'run')


@pytest.mark.slow
def test_eight_devices_run_two_turns_as_one_does(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = write(
    apprentice, tmp_path, prompts_per_step=8, microbatch_groups=8, steps=2
  )
  many = tiny_grpo.run(config, tmp_path / 'eight')
  with pipeline.one_device():
    one = tiny_grpo.run(config, tmp_path / 'one')
  ours, theirs = groups_of(tmp_path / 'eight'), groups_of(tmp_path / 'one')
  for group, other in zip(ours, theirs, strict=True):
    for a, b in zip(group['replies'], other['replies'], strict=True):
      for name in ('text', 'draft', 'length', 'violated'):
        assert a[name] == b[name]
  for name in ('loss', 'kl', 'entropy'):
    np.testing.assert_allclose(
      [row[name] for row in many], [row[name] for row in one], atol=1e-4
    )


@pytest.mark.slow
def test_evaluate_and_report_have_both_turns(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  tiny_grpo.run(write(apprentice, tmp_path), tmp_path / 'grpo')
  evaluation = pipeline.tiny_config('evaluate', apprentice, tmp_path)
  evaluation.batch_size = 4
  pipeline.run('evaluate', evaluation, tmp_path / 'evaluate')
  lines = datasets.read_jsonl(tmp_path / 'evaluate' / 'evaluation.jsonl')
  assert len(lines) == 4
  for line in lines:
    assert line['turns'] == [line['prompt'], 'Again.']
    for reply in (*line['base'], *line['trained']):
      assert isinstance(reply['draft'], str) and reply['follow'] is not None
  # A tiny model's first reply may be blank, but not every one is.
  assert any(reply['draft'] for line in lines for reply in line['trained'])
  report = pipeline.tiny_config('report', apprentice, tmp_path)
  report.reward_model = ''
  pipeline.run('report', report, tmp_path / 'report')
  page = (tmp_path / 'report' / 'report.html').read_text()
  assert page.count('First reply') >= len(lines)
  assert 'Then, after the first reply' in page


def test_generate_has_both_turns_and_goes_on(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  write(apprentice, tmp_path)
  config = pipeline.tiny_config('generate', apprentice, tmp_path)
  config.input = str(tmp_path / 'briefs.jsonl')
  config.two_turns, config.max_new_tokens = True, 32
  config.batch_size = 8
  pipeline.run('generate', config, tmp_path / 'whole')
  file = tmp_path / 'whole' / 'replies.jsonl'
  lines = datasets.read_jsonl(file)
  assert [line['id'] for line in lines] == [str(n) for n in range(12)]
  replies = [
    pair
    for line in lines
    for pair in zip(line['drafts'], line['responses'], strict=True)
  ]
  assert len(replies) == 12 * config.samples
  assert any(draft and text and draft != text for draft, text in replies)
  assert not any('Again' in text for pair in replies for text in pair)
  summary = json.loads((tmp_path / 'whole' / 'summary.json').read_text())
  words = sum(len(text.split()) for pair in replies for text in pair)
  assert words <= summary['tokens'] <= 32 * len(replies)
  # killed after its first batch
  (tmp_path / 'parts').mkdir()
  (tmp_path / 'parts' / 'replies.jsonl').write_text(
    ''.join(file.read_text().splitlines(True)[:8])
  )
  pipeline.run('generate', config, tmp_path / 'parts')
  assert datasets.read_jsonl(tmp_path / 'parts' / 'replies.jsonl') == lines


def test_generate_revises_a_record_without_rules_too(
  apprentice: pathlib.Path, tmp_path: pathlib.Path, one_device: None
) -> None:
  file = tmp_path / 'briefs.jsonl'
  file.write_text('{"prompt": "A sea."}\n')
  config = pipeline.tiny_config('generate', apprentice, tmp_path)
  config.input, config.two_turns = str(file), True
  config.max_new_tokens = 32
  pipeline.run('generate', config, tmp_path / 'run')
  [line] = datasets.read_jsonl(tmp_path / 'run' / 'replies.jsonl')
  assert len(line['drafts']) == len(line['responses'])
