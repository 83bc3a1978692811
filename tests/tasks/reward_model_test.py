"""What the reward model learns from, and the numbers it is judged by."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import forward_variants
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import padded
import pipeline
import pytest
from chat_formats import of_family
from hypothesis import strategies as st
from safetensors.numpy import save_file

from rlcw import train
from rlcw.data import datasets
from rlcw.data.preferences import Preference, load_preferences
from rlcw.evaluation import stats
from rlcw.models import compute, language_model, packing, tokenizer
from rlcw.models.chat import ChatFormat
from rlcw.models.config import LoraConfig
from rlcw.rewards import pooled, reward_model, rollout_scores, text_scores
from rlcw.runtime import console, files
from rlcw.runtime.mesh import make_mesh
from rlcw.sampling.rollout import Rollout
from rlcw.tasks.plan.microbatches import make_microbatch
from rlcw.tasks.plan.plans import make_plan
from rlcw.tasks.reward_model import groups as groups_lib
from rlcw.tasks.reward_model import objective, run
from rlcw.tasks.reward_model.groups import Groups

PAIRS = load_preferences('@preferences.jsonl', split='heldout')[:20]


def make_groups(
  pairs: list[Preference], folder: pathlib.Path, **changes: Any
) -> tuple[Any, Groups]:
  """Groups by the shipped settings, and the tokenizer."""
  text = tokenizer.load(folder)
  config = pipeline.shipped('reward_model')
  config.update(changes)
  return text, groups_lib.make_groups(
    pairs, ChatFormat(text), config, config.debias
  )


def test_a_group_is_chosen_rejected_broken_looping(
  tiny_folder: pathlib.Path,
) -> None:
  text, groups = make_groups(PAIRS, tiny_folder)
  assert groups.token.shape[:2] == groups.worth.shape == (len(PAIRS), 4)
  assert (groups.worth == [1, 0, 0, 0]).all()
  assert (groups.made == [False, False, True, True]).all()
  kept = []
  for pair, token_4xT, mask_4xT, length_4 in zip(
    PAIRS, groups.token, groups.mask, groups.length, strict=True
  ):
    chosen, rejected, broken, looping = (
      token_T[mask_T]
      for token_T, mask_T in zip(token_4xT, mask_4xT, strict=True)
    )
    assert all(
      token_T[mask_T.sum()] == text.eos_token_id
      for token_T, mask_T in zip(token_4xT, mask_4xT, strict=True)
    )
    assert ChatFormat(text).decode_reply(chosen) == pair.chosen
    assert ChatFormat(text).decode_reply(rejected) == pair.rejected
    assert len(broken) == len(looping) == len(chosen)
    best, worst = len(pair.chosen), len(pair.rejected)
    assert length_4.tolist() == [best, worst, best, best]
    kept.append(np.mean(np.equal(broken, chosen)))
    assert len(set(looping)) <= 6
    assert any(
      (looping[period:] == looping[:-period]).all() for period in range(1, 7)
    )
  assert 0.6 < np.mean(kept) < 0.8
  _, again = make_groups(PAIRS, tiny_folder)
  np.testing.assert_array_equal(groups.token, again.token)


def scored(count: int, prompt: str = 'p') -> Preference:
  texts = tuple('abcdefgh'[: n + 1] for n in range(count))
  return Preference(prompt, texts, tuple(map(float, range(count))))


def test_scored_replies_fill_groups_and_pair_within_them(
  tiny_folder: pathlib.Path,
) -> None:
  _, groups = make_groups(
    [scored(5), scored(2, 'q')],
    tiny_folder,
    made_losers=False,
    replies_per_group=3,
    least_gap=2.0,
  )
  worth = [[0, 1, 2], [0, 3, 4], [1, 2, 3], [1, 4, 2], [0, 1, np.nan]]
  worth[3].sort()
  np.testing.assert_array_equal(groups.worth, worth)
  np.testing.assert_array_equal(groups.real, np.isfinite(worth))
  assert not groups.made.any()
  # every pair with a gap of 2 is in one group: 2>0, 3>0, 4>0, 3>1, 4>1, 4>2
  better = [(worth[n][i], worth[n][j]) for n, i, j in groups.pairs()]
  assert sorted(better) == [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)]
  assert not groups.mask[~groups.real].any()


def test_prompts_without_a_pair_are_counted_or_refused() -> None:
  config = pipeline.shipped('reward_model')
  config.preferences = 'x.jsonl'
  alone = Preference('p', ('a',), (1.0,))
  tied = Preference('q', ('a', 'b'), (8.0, 8.0))
  close = Preference('q', ('a', 'b'), (8.0, 8.5))
  console.take_notices()  # of other tests
  groups_lib.check_pairs([close], config, 'train')
  assert not console.take_notices()
  groups_lib.check_pairs([alone, tied, close], config, 'train')
  [notice] = console.take_notices()
  assert "x.jsonl: 2 of 3 prompts of the split 'train' make no pair" in notice
  config.least_gap = 1.0
  with pytest.raises(ValueError, match=r"x\.jsonl: each of the 3 .*'heldout'"):
    groups_lib.check_pairs([alone, tied, close], config, 'heldout')


@hypothesis.given(st.integers(1, 40), st.integers(2, 9))
def test_any_two_replies_are_new_together_in_one_group(
  count: int, size: int
) -> None:
  times = np.zeros((count, count), int)
  for part, is_new in groups_lib.cover(count, size):
    assert part == sorted(set(part))
    assert len(part) <= size
    times[np.ix_(part, part)] += is_new
  np.testing.assert_array_equal(times[~np.eye(count, dtype=bool)], 1)


def test_synthetic_losers_are_found_before_padding(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  _, groups = make_groups(
    [scored(3), scored(2, 'q')], tiny_folder, replies_per_group=6
  )
  made = [[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0]]
  np.testing.assert_array_equal(groups.made, np.array(made, bool))
  # the broken ones score above the best reply, the looping ones below it
  score_NxR = np.array([[0, 1, 2, 3, 1, 9], [0, 2, 3, 1, 9, -9]], float)
  summary = run.judge(groups, score_NxR, tmp_path)
  assert summary['broken_accuracy'] == 0
  assert summary['looping_accuracy'] == 1


def test_intervals_are_over_prompts_not_pairs(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """Each pair is a group of its own, but pairs of one prompt are alike."""
  pairs = [
    dataclasses.replace(PAIRS[0], prompt=f'p{n}')
    for n in range(4)
    for _ in 'abc'
  ]
  _, groups = make_groups(pairs, tiny_folder)
  prompt_N = np.repeat(np.arange(4), 3)
  score_NxR = np.zeros(groups.real.shape)
  better_N = groups.pairs()[:, 1]
  score_NxR[np.arange(12), better_N] = np.where(prompt_N == 3, -1.0, 1.0)
  summary = run.judge(groups, score_NxR, tmp_path)
  assert summary['heldout_accuracy'] == 0.75
  score_Nx2 = run.pair_scores(groups, score_NxR)
  assert summary['heldout_interval'] == stats.interval(score_Nx2, prompt_N)


def test_a_group_without_room_for_a_pair_is_refused(
  tiny_folder: pathlib.Path,
) -> None:
  with pytest.raises(ValueError, match='replies_per_group=3 .* 4 or more'):
    make_groups(PAIRS, tiny_folder, replies_per_group=3)


def test_a_long_reply_is_cut_and_has_no_end(tiny_folder: pathlib.Path) -> None:
  for pooling in pooled.POOLING:
    text, groups = make_groups(
      PAIRS[:1], tiny_folder, max_reply_tokens=7, pooling=pooling
    )
    mask = groups.mask[0, 0, :8].tolist()
    last = pooling == 'last'
    assert mask == [not last] * 6 + [True] + [False]
    assert text.eos_token_id not in groups.token
    assert groups.length[0, 0] == len(PAIRS[0].chosen)


def test_balanced_pairs_prefer_no_length() -> None:
  """Hand-worked: 3 longer winners and 1 shorter one of like ratios."""
  worth_NxR = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]])
  length_NxR = np.array([[20, 10], [40, 20], [22, 11], [10, 20], [30, 30]])
  plain = groups_lib.pair_weights(worth_NxR, length_NxR, 0.0, 'none')
  assert plain[:4, 0, 1].tolist() == [1] * 4 and plain[4, 1, 0] == 1
  assert plain.sum() == 5
  weight = groups_lib.pair_weights(worth_NxR, length_NxR, 0.0, 'balance')
  np.testing.assert_allclose(weight[:, 0, 1], [1 / 3] * 3 + [1, 0], rtol=1e-6)
  assert weight[4, 1, 0] == 1  # of one length: neither side is longer


@pytest.mark.parametrize(('better', 'fits'), [('long', False), ('', True)])
def test_pairs_that_balance_leaves_no_weight_are_refused(
  better: str, fits: bool
) -> None:
  """Synthetic losers, which have weights, are not enough."""
  worth_NxR = np.array([[1.0, 0.0, 0.0]] * 2)
  length_NxR = np.array([[20, 10, 20], [20 if better else 5, 10, 20]])
  made_NxR = np.array([[False, False, True]] * 2)
  weight = groups_lib.pair_weights(worth_NxR, length_NxR, 0.0, 'balance')
  empty = np.zeros(0)
  groups = groups_lib.Groups(
    *[empty] * 4, length_NxR, worth_NxR, made_NxR, weight, empty
  )
  assert weight[:, 0, 2].any()
  config: Any = SimpleNamespace(debias='balance')
  if fits:
    groups_lib.check_weights(groups, config)
    return
  with pytest.raises(ValueError, match="debias='balance' leaves no pair"):
    groups_lib.check_weights(groups, config)


def test_the_length_term_takes_what_length_explains() -> None:
  """Quality and length both decide; a debiased head keeps the quality."""
  rng = np.random.default_rng(0)
  groups, features_NxRxD, quality_NxR = biased_groups(rng)
  correlation = {}
  for debias in ('none', 'length'):
    weight_D = fit(features_NxRxD, groups, debias)
    score_NxR = features_NxRxD @ weight_D
    length = np.corrcoef(score_NxR.ravel(), groups.length.ravel())[0, 1]
    quality = np.corrcoef(score_NxR.ravel(), quality_NxR.ravel())[0, 1]
    correlation[debias] = abs(length), quality
  assert correlation['none'][0] > 0.6
  assert correlation['length'][0] < 0.25 * correlation['none'][0]
  assert correlation['length'][1] > correlation['none'][1] + 0.1


def biased_groups(
  rng: np.random.Generator,
) -> tuple[Groups, np.ndarray, np.ndarray]:
  """400 pairs whose features `[N, 2, 3]` tell of quality, length and noise."""
  shape = (400, 2)
  length_NxR = np.exp(rng.normal(4, 0.5, shape)).astype(int)
  quality_NxR = rng.normal(size=shape)
  log = (np.log(length_NxR) - 4) / 0.5
  worth_NxR = (quality_NxR + 1.5 * log > 0).astype(float)
  worth_NxR += 1e-3 * (quality_NxR + 1.5 * log)
  features_NxRxD = np.stack([quality_NxR, log, rng.normal(size=shape)], -1)
  groups = Groups(
    *[np.zeros(shape)] * 4,
    length=length_NxR,
    worth=worth_NxR,
    made=np.zeros(shape, bool),
    weight=np.zeros(()),
    covariate=groups_lib.covariates(length_NxR),
  )
  return groups, features_NxRxD, quality_NxR


def fit(features_NxRxD: np.ndarray, groups: Groups, debias: str) -> np.ndarray:
  """The head's weights after 200 steps of Adam on `group_loss`."""
  arrays = {
    'weight': groups_lib.pair_weights(groups.worth, groups.length, 0, debias),
    'covariate': groups.covariate,
    'real': groups.real,
  }

  def loss(params: Any) -> jax.Array:
    terms = objective.group_loss(
      jnp.asarray(features_NxRxD) @ params['weight'],
      params['slope'],
      arrays,
      debias,
    )
    return terms['loss'].numerator / terms['loss'].denominator

  params = {
    'weight': jnp.zeros(features_NxRxD.shape[-1]),
    'slope': jnp.zeros(2),
  }
  optimizer = optax.adam(0.1)
  state = optimizer.init(params)
  step = jax.jit(jax.grad(loss))
  for _ in range(200):
    updates, state = optimizer.update(step(params), state)
    params = optax.apply_updates(params, updates)
  return np.asarray(params['weight'])


def gradients(
  loss_fn: Callable[..., Any], params: Any, parts: Sequence[Any]
) -> Any:
  """Sums over parts of the loss's ratio and of its numerator's gradient."""

  @jax.jit
  def of(params: Any, part: Any) -> Any:
    def numerator(params: Any) -> Any:
      loss = loss_fn(params, {}, part)['loss']
      return loss.numerator, loss

    grads, loss = jax.grad(numerator, has_aux=True)(params)
    return loss, grads

  found = [of(params, part) for part in parts]
  return jax.tree.map(lambda *terms: sum(terms), *found)


def norm(tree: Any) -> float:
  return float(optax.tree.norm(tree))


@pytest.mark.slow
@pytest.mark.parametrize(('pooling', 'microbatch'), [('mean', 2), ('last', 0)])
def test_packed_groups_learn_what_padded_ones_do(
  pooling: str, microbatch: int, tiny: Any, tiny_folder: pathlib.Path
) -> None:
  changes = {'max_reply_tokens': 48, 'pooling': pooling}
  _, groups = make_groups(
    [*PAIRS[:3], scored(2), scored(1, 'q')], tiny_folder, **changes
  )
  config = pipeline.shipped('reward_model')
  config.decoder.update(groups_per_step=4, microbatch_groups=microbatch)
  index_B, (model_config, params) = np.array([4, 0, 3, 1]), tiny
  score_D = np.random.default_rng(0).normal(size=32).astype('float32')
  params = {**params, 'score': score_D}
  arrays = objective.arrays_of(groups, index_B)
  assert (arrays['groups'].count == groups.read[index_B]).all()
  lengths = groups.prompt_length[index_B], groups.read[index_B]
  parts, padding = objective.pack(arrays, lengths, config, None)
  assert len(parts) == (2 if microbatch else 1)

  def padded_loss(params: Any, _: Any, arrays: Any) -> Any:
    own = arrays['groups']
    _, reading = padded.forward_replies(
      model_config, params, own.prompt, own.length, own.token
    )
    features_BxRxD = pooled.reply_features(reading, arrays['mask'])
    score_BxR = features_BxRxD @ params['score']
    return objective.group_loss(score_BxR, np.zeros(2), arrays, 'none')

  loss_fn = objective.make_loss(model_config, config, np.zeros(2))
  (loss, count), ours = gradients(loss_fn, params, parts)
  (expected, total), theirs = gradients(padded_loss, params, [arrays])
  assert count == total
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  difference = jax.tree.map(jnp.subtract, ours, theirs)
  assert norm(difference) <= 1e-5 * norm(theirs)
  # and fewer tokens are computed
  B, (R, T) = len(index_B), groups.token.shape[1:]
  real = sum(each.sum() for each in lengths)
  assert padding < 1 - real / (B * (groups.prompt.shape[1] + R * T))


def test_tokens_are_read_up_to_the_last_one_of_the_mask() -> None:
  mask = np.array([[[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]]], bool)
  empty = np.zeros(0)
  groups = Groups(*[empty] * 3, mask, *[empty] * 5)
  assert groups.read.tolist() == [[3, 4, 0]]


def test_a_debiased_score_needs_the_whole_batch() -> None:
  config = pipeline.shipped('reward_model')
  config.train, config.debias = 'lora', 'length'
  mesh = make_mesh(devices=jax.devices()[:1])
  for size in (0, 8):
    config.decoder.microbatch_groups = size
    objective.check(config, mesh)
  assert objective.SETTINGS.valid(config, mesh) == [8]
  config.decoder.microbatch_groups = 4
  with pytest.raises(ValueError, match='debias=length .*=4 would .*expected 0'):
    objective.check(config, mesh)
  config.debias = 'none'
  assert objective.SETTINGS.valid(config, mesh) == [1, 2, 4, 8]
  objective.check(config, mesh)
  config.train, config.decoder.microbatch_groups = 'head', 3
  objective.check(config, mesh)  # there is no update


@pytest.mark.parametrize('learns', ['head', 'lora', 'all'])
def test_only_trained_weights_stay_float32(
  learns: str, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = pipeline.tiny_config('reward_model', tiny_folder, tmp_path)
  config.update(train=learns, compute_dtype='bfloat16', attention='xla')
  base = tiny_policy(tiny_folder)
  model, learned, frozen = run.divide(base, config)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(learned)} == (
    set() if learns == 'head' else {'float32'}
  )
  assert {leaf.dtype.name for leaf in jax.tree.leaves(frozen)} == (
    set() if learns == 'all' else {'bfloat16', 'float32'}
  )
  assert (model.config.dtype, model.config.attention) == ('bfloat16', 'xla')
  # features are read from the pretrained weights alone
  assert model.config.lora is None
  assert jax.tree.structure(model.params) == jax.tree.structure(base.params)


def test_a_plan_has_the_arrays_that_training_has(
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  config = pipeline.tiny_config('reward_model', tiny_folder, tmp_path)
  config.update(train='lora', compute_dtype='bfloat16', max_reply_tokens=32)
  config.decoder.update(groups_per_step=16, microbatch_groups=8)
  mesh, seen = make_mesh(), {}
  model, learned, frozen = run.divide(
    language_model.load(tiny_folder, mesh), config
  )
  groups = groups_lib.make_groups(PAIRS, model.chat, config, 'none')
  config.plan.prompt_tokens = int(groups.prompt_length.max())

  def fit(learned: Any, next_batch: Any, *_: Any, **more: Any) -> Any:
    state: Any = SimpleNamespace(params=learned)
    seen.update(
      more, learned=learned, parts=next_batch(state, 0).minibatches[0].parts
    )
    return state

  monkeypatch.setattr(train, 'fit', fit)
  head = reward_model.Head(np.zeros(32), np.zeros(()))
  with jax.set_mesh(mesh):
    run.fit_decoder(
      groups, model, learned, frozen, head, np.zeros(2), config, tmp_path
    )
  planned = make_plan(config, mesh)
  expected = make_microbatch(planned)
  assert len(seen['parts']) == seen['microbatches'] == expected.parts == 2

  def described(tree: Any) -> Any:
    return jax.tree.map(lambda a: (a.shape, a.dtype, a.sharding), tree)

  for part in seen['parts']:
    assert part.width <= expected.part.width
    assert described(part.arrays) == described(expected.part.arrays)
  assert described(seen['learned']) == described(planned.learned)
  assert described(seen['frozen']) == described(planned.base)


@pytest.mark.slow
@pytest.mark.parametrize('learns', ['lora', 'all'])
def test_neither_devices_nor_microbatches_change_an_update(
  learns: str, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = pipeline.tiny_config('reward_model', tiny_folder, tmp_path)
  config.update(train=learns, max_reply_tokens=16)
  config.decoder.steps = 2
  weight_D = np.random.default_rng(0).normal(size=32)

  def trained(devices: int, microbatch: int) -> list[dict[str, Any]]:
    mesh = make_mesh(devices=jax.devices()[:devices])
    config.decoder.microbatch_groups = microbatch
    model, learned, frozen = run.divide(
      language_model.load(tiny_folder, mesh), config
    )
    model = model._replace(config=compute.configure(model.config, config))
    groups = groups_lib.make_groups(PAIRS[:8], model.chat, config, 'none')
    head = reward_model.Head(weight_D, np.zeros(()))
    workdir = tmp_path / str(devices)
    with jax.set_mesh(mesh):
      run.fit_decoder(
        groups, model, learned, frozen, head, np.zeros(2), config, workdir
      )
    return list(datasets.read_jsonl(workdir / 'metrics.jsonl'))

  for row, other in zip(trained(8, 0), trained(1, 2), strict=True):
    for name in ('loss', 'grad_norm', 'accuracy'):
      assert row[name] == pytest.approx(other[name], rel=1e-4)


def tiny_policy(folder: pathlib.Path) -> language_model.LanguageModel:
  mesh = make_mesh(devices=jax.devices()[:1])
  return language_model.load(folder, mesh)


def test_equal_heads_are_equal_files(tmp_path: pathlib.Path) -> None:
  """Or a head that is made anew would be another input of its readers."""
  head = reward_model.Head(np.arange(4, dtype=np.float32), np.float32(0.5))
  found = set()
  for _ in range(8):
    reward_model.save(head, tmp_path, [1], -2.0, 3)
    found.add((tmp_path / reward_model.FILE).read_bytes())
  assert len(found) == 1


def save_run(
  workdir: pathlib.Path, model: str, size: int, pooling: str = 'mean'
) -> reward_model.Head:
  """The folder that a finished run with train=head leaves."""
  head = reward_model.Head(np.arange(size, dtype=np.float32), np.float32(0.5))
  (workdir / 'checkpoints').mkdir(parents=True)
  reward_model.save(head, workdir, [1])
  settings = {
    'task': 'reward_model',
    'model': model,
    'train': 'head',
    'pooling': pooling,
    'max_reply_tokens': 64,
  }
  files.write_json(workdir / 'config.json', settings)
  return head


def test_a_head_on_the_policys_own_decoder_shares_it(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  head = save_run(tmp_path, base.source, 32)
  again = reward_model.load(str(tmp_path), base)
  np.testing.assert_array_equal(again.head.weight, head.weight)
  assert again.head.bias == 0.5 and again.pooling == 'mean'
  assert again.shared and again.decoder.params is base.params


def test_longer_texts_beside_a_policy_compile_nothing_new(
  tiny_folder: pathlib.Path,
  make_judge: Callable[[str], pathlib.Path],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """Replies of 8 of the policy's tokens, by a tokenizer with others."""
  base = tiny_policy(tiny_folder)
  save_run(tmp_path, str(make_judge('llama3')), 32)
  reward = reward_model.load(str(tmp_path), base)
  assert not reward.shared
  monkeypatch.setattr(packing, 'widths', lambda *_: [2048])  # of rows
  whole, cut = np.ones((1, 2), bool), np.zeros((1, 2), bool)

  def score(*replies: str, finished: np.ndarray = whole) -> np.ndarray:
    return text_scores.score(
      reward, ['To the sea'], [replies], finished, (32, 8)
    )

  score('a', 'b')
  compiled = pooled.features._cache_size()
  score('wave ' * 4, 'salt ' * 9)  # up to 32 tokens, and beyond
  long = score('x' * 32 + 'y' * 99, 'x' * 32, finished=cut)
  assert pooled.features._cache_size() == compiled
  # the rest of a longer one is not read
  assert long[0, 0] == long[0, 1]
  assert score('x' * 31, 'x')[0, 0] != long[0, 0]
  # a decoder with the policy's tokenizer needs little room
  same = reward_model.load(str(tmp_path), tiny_policy(make_judge('llama3')))
  assert same.shared and same.stretch < reward.stretch


def test_a_run_remembers_what_it_read_after_a_reply(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  head = save_run(tmp_path, base.source, 32, 'last')
  again = reward_model.load(str(tmp_path), base)
  assert again.end == [1] and again.shared
  # the newline after <|im_end|> is in no rollout
  end = pooled.end_of_reply(base.chat, 'last')
  assert end == base.chat.after_reply and len(end) == 2
  reward_model.save(head, tmp_path, end)
  again = reward_model.load(str(tmp_path), base)
  assert again.end == end and not again.shared
  # a run of an earlier version
  arrays = {'weight': head.weight, 'bias': np.asarray(head.bias)}
  save_file(arrays, tmp_path / reward_model.FILE)
  again = reward_model.load(str(tmp_path), base)
  assert again.end == [base.tokenizer.eos_token_id] and again.shared


@pytest.mark.parametrize('name', ['gemma', 'chatml-base', 'llama3', 'r1'])
@pytest.mark.parametrize('pooling', pooled.POOLING)
def test_training_reads_the_tokens_that_grpo_scores(
  name: str, pooling: str
) -> None:
  made = ChatFormat(of_family(name))
  if name in ('gemma', 'chatml-base'):
    assert made.end != [made.tokenizer.eos_token_id]
  config = pipeline.shipped('reward_model')
  config.pooling = pooling
  reply = 'The keeper wrote.'
  pair = Preference('A letter', (reply, 'No.'), (1.0, 0.0))
  groups = groups_lib.make_groups([pair], made, config, 'none')
  row = groups.token[0, 0][: np.trim_zeros(groups.token[0, 0], 'b').size]
  read = groups.token[0, 0][groups.mask[0, 0]].tolist()
  # from its text, as every reward model but the policy's own decoder reads it
  end = pooled.end_of_reply(made, pooling)
  [again], span = pooled.reply_rows(
    made, [made.encode_content(reply)], [True], end, 512
  )
  size = np.array([len(again)])
  mask = pooled.read_mask(span, size, len(again), pooling)
  assert again == row.tolist() and np.array(again)[mask[0]].tolist() == read
  whole = made.tokenizer.apply_chat_template(
    [
      {'role': 'user', 'content': 'A letter'},
      {'role': 'assistant', 'content': reply},
    ],
    return_dict=False,
  )
  if name != 'r1' and pooling == 'last':
    assert whole[-len(again) :] == again
  # and from what the policy sampled, after a thought if its prompt opens one
  ids = [*made.encode_thought('hm</think>x'), *made.encode_content(reply)]
  for eos in made.eos_ids:
    rollout = Rollout(
      token=np.array([[[*ids, eos, 0]]]),
      logp=None,
      length=np.array([[len(ids) + 1]]),
      finished=np.array([[True]]),
    )  # type: ignore
    found = rollout_scores.rollout_mask(made, rollout, pooling)
    sampled = np.asarray(rollout.token)[found].tolist()
    assert sampled == (read if pooling == 'mean' else [eos])


def test_a_reply_is_read_with_the_end_of_training(
  tiny_folder: pathlib.Path,
) -> None:
  base = tiny_policy(tiny_folder)
  rng = np.random.default_rng(0)
  head = reward_model.Head(rng.normal(size=32), np.float32(0))
  token = rng.integers(2, 300, (1, 2, 4))
  length = np.array([[3, 4]])

  def read(tokens: np.ndarray, end: int | None) -> Any:
    finished = np.array([[True, False]])
    rollout = Rollout(tokens, np.zeros(tokens.shape), length, finished)  # type: ignore
    mask = pooled.read_mask(
      np.zeros((2, 2), int), length.reshape(-1), 4, 'last'
    )
    return rollout_scores.score_and_reference(
      base.params,
      head,
      np.array([[5, 6]]),
      np.array([2]),
      rollout,
      1.0,
      mask.reshape(1, 2, 4),
      end,
      config=base.config,
    )

  other = token.copy()
  other[0, 0, 2] = 9
  scores, logp = read(token, 9)
  np.testing.assert_allclose(scores, read(other, None)[0], rtol=1e-6)
  real = np.arange(4) < length[..., None]
  expected = read(token, None)[1][real]
  np.testing.assert_allclose(logp[real], expected, rtol=1e-6)


def test_prompts_must_fit_the_context() -> None:
  made = dataclasses.replace(ChatFormat(of_family('chatml')), context=64)
  pairs = [Preference('x' * n, ('y' * 30, 'z'), (1.0, 0.0)) for n in (1, 60)]
  config = pipeline.shipped('reward_model')
  with pytest.raises(ValueError, match=r"1 of 2 .* 64 tokens.*prompt 2 \('xxx"):
    groups_lib.make_groups(pairs, made, config, 'none')
  # Each with its own replies.
  fit = [
    Preference('x' * n, ('y' * reply, 'z'), (1.0, 0.0))
    for n, reply in ((1, 30), (30, 1))
  ]
  assert len(groups_lib.make_groups(fit, made, config, 'none').prompt) == 2


def test_a_reward_model_has_none_of_the_policys_adapters(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  save_run(tmp_path, base.source, 32)
  lora = LoraConfig(2, 4.0, ('query',))
  adapted = base._replace(config=dataclasses.replace(base.config, lora=lora))
  assert reward_model.load(str(tmp_path), adapted).decoder.config == base.config


def test_a_head_on_another_decoder_brings_it(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  other = base._replace(source='elsewhere', params=None)
  save_run(tmp_path, base.source, 32)
  again = reward_model.load(str(tmp_path), other)
  assert not again.shared
  jax.tree.map(np.testing.assert_array_equal, again.decoder.params, base.params)


def test_a_head_that_does_not_fit_is_an_error(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  save_run(tmp_path / 'run', base.source, 31)
  with pytest.raises(ValueError, match=r'shape \(31,\), expected \(32,\)'):
    reward_model.load(str(tmp_path / 'run'), base)
  with pytest.raises(FileNotFoundError, match='run the reward_model task'):
    reward_model.load(str(tmp_path / 'none'), base)


def test_texts_score_as_their_tokens_do(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  rng = np.random.default_rng(0)
  head = reward_model.Head(
    rng.normal(size=32).astype('float32'), np.float32(0.1)
  )
  for pooling in pooled.POOLING:
    model = reward_model.RewardModel(head, pooling, base, shared=True)
    prompts, replies = ['A letter', 'To the sea'], [['one', 'two!'], ['', 'x']]
    finished = np.array([[True, False], [True, True]])
    scores = text_scores.score(model, prompts, replies, finished)
    assert np.isfinite(scores).all()
    for p, g in np.ndindex(2, 2):
      if not replies[p][g]:  # blank: no better than any other
        assert scores[p, g] == scores[p].min()
        continue
      prompt = base.chat.encode_prompt(prompts[p])
      reply = tokenizer.encode(base.tokenizer, replies[p][g])
      row = prompt + reply + [base.tokenizer.eos_token_id] * int(finished[p, g])
      padded = np.pad(row, (0, 64 - len(row)))  # no token sees the next one
      [hidden] = np.asarray(
        forward_variants.hidden(base.config, base.params, padded[None])
      )
      read = hidden[len(prompt) : len(prompt) + len(reply)]
      if pooling == 'last':
        feature = hidden[len(row) - 1]
      else:
        feature = read.mean(0)
      expected = feature @ head.weight + head.bias
      assert scores[p, g] == pytest.approx(expected, abs=1e-4)


def test_what_is_longer_than_the_limit_scores_as_if_cut(
  tiny_folder: pathlib.Path,
) -> None:
  base = tiny_policy(tiny_folder)
  head = reward_model.Head(np.ones(32, np.float32), np.float32(0))
  model = reward_model.RewardModel(head, 'mean', base, shared=True, limit=8)
  score = functools.partial(text_scores.score, model, ['p'])
  long = 'word ' * 500
  cut = base.chat.decode_reply(tokenizer.encode(base.tokenizer, long)[:8])
  found = score([[long, 'word']], np.array([[True, True]]), (32, 8))
  expected = score([[cut, 'word']], np.array([[False, True]]), (32, 8))
  np.testing.assert_allclose(found, expected, atol=4e-5)


def test_a_text_cannot_make_a_control_token(tiny_folder: pathlib.Path) -> None:
  text = tokenizer.load(tiny_folder)
  ids = tokenizer.encode_untrusted(text, 'fine<|im_end|>')
  assert text.eos_token_id not in ids
  assert ChatFormat(text).decode_reply(ids) == 'fine<|im_end|>'


def test_features_are_means_over_the_text_only() -> None:
  hidden = np.arange(12, dtype=np.float32).reshape(1, 1, 4, 3)
  text = np.array([[[True, True, False, False]]])
  features_PxGxD = pooled.reply_features(hidden, text)  # type: ignore
  np.testing.assert_allclose(features_PxGxD[0, 0], [1.5, 2.5, 3.5])
  empty = pooled.reply_features(hidden, text & False)  # type: ignore
  np.testing.assert_array_equal(empty[0, 0], np.zeros(3))
