"""Learning from examples: what counts, and that it is learned."""

import json
import pathlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import chat_formats
import forward_variants
import jax
import jax.numpy as jnp
import numpy as np
import pipeline
import pytest
from metrics_page import documented
from ml_collections import ConfigDict

from rlcw import train
from rlcw.data import datasets
from rlcw.data.examples import Example, load_examples
from rlcw.data.messages import Message, messages
from rlcw.data.preferences import load_preferences
from rlcw.losses import Ratio
from rlcw.models import attention, language_model, tokenizer, weights
from rlcw.models.chat import ChatFormat
from rlcw.models.decoder import Decoder, head_weight
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.runtime import files
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks import sft
from rlcw.tasks.plan.microbatches import make_microbatch
from rlcw.tasks.plan.plans import make_plan

EXAMPLES = [
  Example('To the sea', 'Dear sea, be kind.'),
  Example('To the keeper of the light', 'No.'),
  Example('', 'The letter was there.'),
  # two replies to learn, and messages between them that are not
  Example(
    (
      Message('system', 'Be kind.'),
      Message('user', 'To the keeper'),
      Message('assistant', 'Dear keeper.'),
      Message('user', 'More'),
    ),
    'The sea.',
  ),
]


@pytest.fixture(scope='module')
def file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  path = tmp_path_factory.mktemp('examples') / 'examples.jsonl'
  for n in range(24):
    files.append_jsonl(
      path,
      {
        'prompt': f'Letter {n}',
        'response': f'The keeper wrote letter {n} to the sea.',
        'split': 'heldout' if n % 3 == 0 else 'train',
      },
    )
  return path


def alone(config: Any, params: Any, text: Any) -> Ratio:
  """The loss of the examples, each read in a row of its own."""
  rows, replies = zip(*(by_hand(e, text) for e in EXAMPLES), strict=True)
  token_NxL = np.zeros((len(rows), max(map(len, rows))), int)
  for token_L, row in zip(token_NxL, rows, strict=True):
    token_L[: len(row)] = row
  hidden_NxLxD = forward_variants.hidden(config, params, token_NxL)
  logp_NxLxV = jax.nn.log_softmax(hidden_NxLxD @ head_weight(params).T)
  learned = [(n, at) for n, places in enumerate(replies) for at in places]
  row_M, at_M = np.array(learned).T
  logp_M = logp_NxLxV[row_M, at_M - 1, token_NxL[row_M, at_M]]
  return Ratio(-logp_M.sum(), len(learned))


def by_hand(example: Example, text: Any) -> tuple[list[int], list[int]]:
  """An example in ChatML, and the places of the assistant's tokens in it."""
  row, replies = [], []
  said = [*messages(example.prompt), Message('assistant', example.response)]
  for role, content in said:
    row += tokenizer.encode(text, f'<|im_start|>{role}\n')
    first = len(row)
    row += [*tokenizer.encode(text, content), text.eos_token_id]
    if role == 'assistant':
      replies += range(first, len(row))
    row += tokenizer.encode(text, '\n')
  return row[: replies[-1] + 1], replies


@pytest.mark.parametrize(
  ('row_tokens', 'family'),
  [
    (96, 'llama'),
    pytest.param(96, 'gemma3', marks=pytest.mark.slow),
    pytest.param(256, 'gemma3', marks=pytest.mark.slow),
    pytest.param(256, 'llama', marks=pytest.mark.slow),
  ],
)
def test_the_loss_is_that_of_each_example_alone(
  row_tokens: int,
  family: str,
  make_model: Callable[..., Any],
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  # torch makes a padding token's embedding zero, where gradients have a pole
  make_model(family, pad_token_id=None).save_pretrained(tmp_path)
  config, params = weights.load(tmp_path)
  params = jax.tree.map(jnp.asarray, params)
  text = tokenizer.load(tiny_folder)
  arrays = sft.pack_rows(
    sft.encode(EXAMPLES, ChatFormat(text)), row_tokens, seed=0
  )
  assert len(arrays['token']) == {96: 2, 256: 1}[row_tokens]
  assert (config.window is not None) == (family == 'gemma3')
  loss_fn = sft.make_loss(config)

  def ours(params: Any) -> Any:
    return loss_fn(params, {}, arrays)['loss']

  def theirs(params: Any) -> Any:
    return alone(config, params, text)

  (told, count, got), (expected, tokens, wanted) = (
    jax.jit(
      lambda params, f=f: (
        *f(params),
        jax.grad(lambda p: f(p).numerator / f(p).denominator)(params),
      )
    )(params)
    for f in (ours, theirs)
  )
  assert count == tokens
  np.testing.assert_allclose(told, expected, rtol=4e-5)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
    assert jnp.abs(b).max() > 1e-4
    np.testing.assert_allclose(a, b, atol=4e-5)


@pytest.mark.slow
def test_places_restart_with_every_example(tiny: Any) -> None:
  config, params = tiny
  segment = np.array([[[1, 1, 1, 2, 2, 2, 2, 0]]])
  np.testing.assert_array_equal(
    attention.segment_positions(jnp.asarray(segment)),
    [[[0, 1, 2, 0, 1, 2, 3, 0]]],
  )
  token = np.array([[[5, 6, 7, 9, 8, 7, 6, 0]]])
  _, packed = Decoder(config).apply({'params': params}, token, None, segment)
  _, own = Decoder(config).apply({'params': params}, token[..., 3:7])
  # keys are turned by their places, which the loss cannot tell
  np.testing.assert_allclose(packed.k[:, :, :, 3:7], own.k, atol=4e-5)


def test_an_example_longer_than_a_row_is_refused(
  tiny_folder: pathlib.Path,
) -> None:
  text = tokenizer.load(tiny_folder)
  with pytest.raises(ValueError, match='2 of 4 .* row_tokens=32.* has 71'):
    sft.pack_rows(sft.encode(EXAMPLES, ChatFormat(text)), 32, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize('learns', ['all', 'lora'])
def test_held_out_loss_falls(
  learns: str,
  file: pathlib.Path,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  config = pipeline.tiny_config('sft', tiny_folder, tmp_path)
  config.examples, config.train = str(file), learns
  if learns == 'lora':
    config.learning_rate = 3e-2
  pipeline.run('sft', config, tmp_path / 'sft')
  told: dict[str, Any] = json.loads(
    (tmp_path / 'sft' / 'summary.json').read_text()
  )
  assert told['train_examples'] == 16 and told['heldout_examples'] == 8
  assert told['heldout_loss_trained'] < told['heldout_loss_base'] - 0.2
  mesh = make_mesh()
  assert language_model.load(tmp_path / 'sft', mesh).config.lora is None


@pytest.mark.slow
def test_a_longer_run_goes_on_exactly(
  file: pathlib.Path, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  def run(name: str, steps: int) -> Any:
    config = pipeline.tiny_config('sft', tiny_folder, tmp_path)
    config.examples, config.steps = str(file), steps
    pipeline.run('sft', config, tmp_path / name)
    mesh = make_mesh()
    return jax.device_get(language_model.load(tmp_path / name, mesh).params)

  run('stopped', 2)
  jax.tree.map(np.testing.assert_array_equal, run('stopped', 5), run('one', 5))
  [*_, row] = datasets.read_jsonl(tmp_path / 'one' / 'metrics.jsonl')
  assert {*row} <= documented('grpo')  # and none that `grpo` lacks


def test_rows_that_do_not_split_over_the_devices_are_refused(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = pipeline.tiny_config('sft', tiny_folder, tmp_path)
  config.rows_per_step = 12
  with pytest.raises(ValueError, match='12 .* 8 devices.*a multiple of 8'):
    sft.check(config)


def test_a_step_of_more_rows_than_there_are_is_refused_before_it_begins(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'examples.jsonl'
  lines = [
    {'prompt': 'A', 'response': 'B', 'split': split}
    for split in ('train', 'heldout')
  ]
  file.write_text('\n'.join(map(json.dumps, lines)))
  config = pipeline.tiny_config('sft', tiny_folder, tmp_path)
  config.examples, config.rows_per_step = str(file), 8
  with pytest.raises(ValueError, match='rows_per_step=8, but there are only 1'):
    pipeline.run('sft', config, tmp_path / 'run')


class Reached(Exception):
  """Raised in place of training."""


def reach(
  monkeypatch: pytest.MonkeyPatch, config: Any, workdir: pathlib.Path
) -> dict[str, Any]:
  """Runs the task up to its training; returns the arguments of `train.fit`."""
  seen: dict[str, Any] = {}

  def fit(learned: Any, next_batch: Any, *_: Any, **more: Any) -> None:
    seen.update(more, learned=learned, next_batch=next_batch)
    raise Reached

  monkeypatch.setattr(train, 'fit', fit)
  monkeypatch.setattr(sft, 'mean_loss', lambda *_: 0.0)
  with pytest.raises(Reached):
    sft.run(config, workdir)
  return seen


@pytest.mark.parametrize('learns', ['all', 'lora'])
def test_frozen_weights_have_the_compute_dtype(
  learns: str,
  file: pathlib.Path,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  config = pipeline.tiny_config('sft', tiny_folder, tmp_path)
  config.update(
    examples=str(file),
    train=learns,
    compute_dtype='bfloat16',
    moment_dtype='bfloat16',
    row_tokens=64,
  )
  seen = reach(monkeypatch, config, tmp_path)
  dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(seen['learned'])}
  assert dtypes == {'float32'}
  frozen = {leaf.dtype.name for leaf in jax.tree.leaves(seen['frozen'])}
  # norms are computed in float32
  assert frozen == ({'bfloat16', 'float32'} if learns == 'lora' else set())
  state: Any = train.init_state(
    seen['learned'], sft.make_optimizer(config), make_mesh()
  )
  moments = state.opt_state[1][0]
  assert {m.dtype.name for m in jax.tree.leaves(moments.mu)} == {'bfloat16'}


def test_microbatches_are_the_rows_of_a_step(
  file: pathlib.Path,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  config = pipeline.tiny_config('sft', tiny_folder, tmp_path)
  config.update(examples=str(file), row_tokens=64, rows_per_step=16)
  tokens = {}
  for size in (0, 8):
    config.microbatch_rows = size
    seen = reach(monkeypatch, config, tmp_path)
    state: Any = SimpleNamespace(params=seen['learned'])
    parts = seen['next_batch'](state, 0).minibatches[0].parts
    assert len(parts) == seen['microbatches'] == (2 if size else 1)
    tokens[size] = np.concatenate([part['token'] for part in parts])
    # as a plan has them; of a row's targets there may be more in a plan
    planned = make_microbatch(make_plan(config, make_mesh()))
    for name, shape in planned.part.items():
      array = parts[0][name]
      assert (array.dtype, array.sharding) == (shape.dtype, shape.sharding)
      assert len(array) == shape.shape[0]
      assert array.shape == shape.shape or name in ('place', 'mask')
    assert planned.parts == len(parts)
  np.testing.assert_array_equal(tokens[0], tokens[8])


@pytest.mark.slow
def test_neither_devices_nor_microbatches_change_an_update(
  file: pathlib.Path, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = pipeline.tiny_config('sft', tiny_folder, tmp_path)
  config.update(examples=str(file), steps=2)
  pipeline.run('sft', config, tmp_path / 'eight')
  config.microbatch_rows = 2
  with pipeline.one_device():
    pipeline.run('sft', config, tmp_path / 'one')
  eight, one = (
    datasets.read_jsonl(tmp_path / name / 'metrics.jsonl')
    for name in ('eight', 'one')
  )
  for row, other in zip(eight, one, strict=True):
    for name in ('loss', 'grad_norm'):
      assert row[name] == pytest.approx(other[name], rel=1e-4)


def test_a_short_last_batch_counts_each_row_once(
  tiny_folder: pathlib.Path,
) -> None:
  model = language_model.load(tiny_folder, make_mesh(devices=jax.devices()[:1]))
  arrays = sft.pack_rows(sft.encode(EXAMPLES * 2, model.chat), 96, seed=0)
  assert len(arrays['token']) == 4
  loss_fn = sft.make_loss(model.config)
  losses = [
    sft.mean_loss(
      loss_fn, arrays, ConfigDict({'rows_per_step': size}), model.params, {}
    )
    for size in (2, 3, 5)
  ]
  assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


def test_a_judge_learns_verdicts(
  make_judge: Callable[[str], pathlib.Path], tmp_path: pathlib.Path
) -> None:
  replies = tmp_path / 'replies.jsonl'
  for n in range(24):
    files.append_jsonl(
      replies,
      {
        'prompt': f'Letter {n}',
        'response': ('The sea was kind.', 'No, no, no.')[n % 2],
        'label': 1 - n % 2,
        'split': ('train', 'train', 'dev', 'dev', 'heldout', 'heldout')[n % 6],
      },
    )
  principles = tmp_path / 'principles.md'
  principles.write_text('1. Be kind.')
  config = pipeline.tiny_config('sft', make_judge('llama3'), tmp_path)
  config.update(
    examples=str(replies),
    principles=str(principles),
    row_tokens=512,
    rows_per_step=8,
    learning_rate=1e-2,
    steps=8,
  )
  summary = pipeline.run('sft', config, tmp_path / 'sft')
  assert (summary['train_examples'], summary['heldout_examples']) == (16, 8)
  # 0.69 is that of either label at random, if it learned only the two words
  assert summary['heldout_loss_trained'] < 0.6 < summary['heldout_loss_base']


def test_a_verdict_is_what_the_judge_of_the_same_prompt_gives(
  make_judge: Callable[[str], pathlib.Path],
) -> None:
  model = language_model.load(
    make_judge('llama3'), make_mesh(devices=jax.devices()[:1])
  )
  config = pipeline.shipped('sft')
  config.principles = '@principles_writing_en'
  question = sft.verdict_question(config)
  judge = LogprobJudge(model, 1, system='Be kind.')
  # Untrusted text is no control token.
  prompt = question.about('To the <|im_end|> sea', 'Dear <|im_end|> sea')
  probability = judge(question, [[prompt]]).first.item()
  for first in (True, False):
    ids, mask = judge.example(question, prompt, first)
    assert sum(mask) == mask[-1] == 1
    hidden = forward_variants.hidden(
      model.config, model.params, np.array([ids])
    )
    logit_V = (hidden @ head_weight(model.params).T)[0, -2]
    other = judge.example(question, prompt, not first)[0]
    assert other[:-1] == ids[:-1]
    right = jax.nn.softmax(logit_V[np.array([ids[-1], other[-1]])])[0]
    assert right == pytest.approx(probability if first else 1 - probability)


@pytest.mark.parametrize(
  ('changes', 'match'),
  [
    ({'principles': 'none.md'}, 'no file none.md'),
    ({'principles': '~/none.md'}, r'no file /.*/none\.md'),
    ({'language': ''}, "language=''; with principles"),
  ],
)
def test_a_wrong_question_of_a_judge_to_train_is_refused_at_once(
  changes: dict[str, str], match: str
) -> None:
  config = pipeline.shipped('sft')
  config.principles = '@principles_writing_en'
  config.update(changes)
  with pytest.raises((ValueError, FileNotFoundError), match=match):
    sft.check(config)


@pytest.mark.parametrize('record', [{'prompt': 'x'}, {'response': 'x'}])
def test_a_record_that_lacks_something_is_named(
  record: dict[str, str], tmp_path: pathlib.Path
) -> None:
  files.append_jsonl(tmp_path / 'bad.jsonl', record)
  with pytest.raises(ValueError, match=r'bad\.jsonl:1: '):
    load_examples(tmp_path / 'bad.jsonl')


def test_of_a_pair_the_chosen_reply_is_the_example() -> None:
  pairs = load_preferences('@preferences.jsonl', split='heldout')
  examples = load_examples('@preferences.jsonl', split='heldout')
  assert [e.response for e in examples] == [p.chosen for p in pairs]


def test_some_prompts_are_held_out_where_no_record_says_which(
  tmp_path: pathlib.Path,
) -> None:
  path = tmp_path / 'plain.jsonl'
  for n in range(100):
    files.append_jsonl(path, {'prompt': f'{n}', 'response': 'x'})
  parts = [
    {e.prompt for e in load_examples(path, split=split, heldout=0.2)}
    for split in ('train', 'heldout')
  ]
  assert len(parts[0] | parts[1]) == 100 and not parts[0] & parts[1]
  assert 8 < len(parts[1]) < 35


@pytest.mark.parametrize(
  ('family', 'counted'), [('qwen3', True), ('r1', False), ('chatml', False)]
)
def test_thoughts_that_are_not_learned_are_counted(
  family: str,
  counted: bool,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  chat = ChatFormat(chat_formats.of_family(family), source=family)
  thought = '<think>\nBrief.\n</think>\n\nHo.'
  lines = [
    {'prompt': f'Hi {n}', 'response': reply, 'split': split}
    for n, (reply, split) in enumerate(
      [(thought, 'train'), ('Ho.', 'train'), (thought, 'heldout')]
    )
  ]
  file = tmp_path / 'x.jsonl'
  file.write_text('\n'.join(map(json.dumps, lines)))
  settings = {'examples': str(file), 'language': 'en', 'heldout': 0.1}
  model: Any = SimpleNamespace(chat=chat, system='', source=family)
  sft.encode_examples(ConfigDict(settings), model)
  told = capsys.readouterr()
  said = '2 of 3 replies are learned without their thoughts'
  assert (said in told.out + told.err) == counted
