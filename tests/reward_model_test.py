"""What the reward model learns from, and the numbers it is judged by."""

import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from rlcw import data, metrics, policy, reward_model, sharding, tokenizer
from rlcw.model import Decoder
from rlcw.rewards import writing

PAIRS = data.load_preferences('@preferences.jsonl', split='heldout')[:20]


def test_a_group_is_chosen_rejected_broken_looping(
  tiny_folder: pathlib.Path,
) -> None:
  text = tokenizer.load(tiny_folder)
  config = ConfigDict({'seed': 0, 'broken_tokens': 0.3})
  rows = reward_model.group_tokens(PAIRS, text, config)
  assert len(rows) == 4 * len(PAIRS)
  kept = []
  for pair, chosen, rejected, broken, looping in zip(
    PAIRS, *(rows[k::4] for k in range(4)), strict=True
  ):
    ends = {row[-1] for row in (chosen, rejected, broken, looping)}
    assert ends == {text.eos_token_id}
    chosen, broken, looping = chosen[:-1], broken[:-1], looping[:-1]
    assert tokenizer.decode(text, chosen) == pair.chosen
    assert tokenizer.decode(text, rejected) == pair.rejected
    assert len(broken) == len(looping) == len(chosen)
    kept.append(np.mean(np.equal(broken, chosen)))
    assert len(set(looping)) <= 6
    assert any(
      (looping[period:] == looping[:-period]).all() for period in range(1, 7)
    )
  assert 0.6 < np.mean(kept) < 0.8
  again = reward_model.group_tokens(PAIRS, text, config)
  assert all(np.array_equal(a, b) for a, b in zip(rows, again, strict=True))


def test_accuracy_counts_a_tie_half() -> None:
  score_Nx2 = np.array([[2.0, 1.0], [1.0, 2.0], [3.0, 3.0], [5.0, 0.0]])
  assert reward_model.accuracy(score_Nx2) == 2.5 / 4


def test_judging_separates_length_from_quality() -> None:
  def pair(chosen: int, rejected: int) -> data.Preference:
    return data.Preference('p', 'a' * chosen, 'b' * rejected)

  pairs = [pair(10, 20), pair(20, 10), pair(30, 10), pair(19, 20)]
  score_Nx2 = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
  told = reward_model.judge(pairs, score_Nx2)
  assert told['heldout_accuracy'] == 0.75
  assert told['length_only_accuracy'] == 0.5
  assert told['matched_pairs'] == 1  # only 19 against 20 is within 10%
  assert told['matched_accuracy'] == 1.0


def tiny_policy(folder: pathlib.Path) -> policy.Policy:
  mesh = sharding.make_mesh(devices=jax.devices()[:1])
  return policy.load(folder, mesh)


def save_run(workdir: pathlib.Path, model: str, size: int) -> writing.Head:
  """The folder that a finished run with train=head leaves."""
  head = writing.Head(np.arange(size, dtype=np.float32), np.float32(0.5))
  (workdir / 'checkpoints').mkdir(parents=True)
  writing.save(head, workdir)
  settings = {
    'task': 'reward_model',
    'model': model,
    'train': 'head',
    'pooling': 'mean',
  }
  metrics.write_json(workdir / 'config.json', settings)
  return head


def test_a_head_on_the_policys_own_decoder_shares_it(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  head = save_run(tmp_path, base.model, 32)
  again = writing.load(str(tmp_path), base)
  np.testing.assert_array_equal(again.head.weight, head.weight)
  assert again.head.bias == 0.5 and again.pooling == 'mean'
  assert again.shared and again.decoder is base


def test_a_head_on_another_decoder_brings_it(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  other = base._replace(model='elsewhere', params=None)
  save_run(tmp_path, base.model, 32)
  again = writing.load(str(tmp_path), other)
  assert not again.shared
  jax.tree.map(np.testing.assert_array_equal, again.decoder.params, base.params)


def test_a_head_that_does_not_fit_is_an_error(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  save_run(tmp_path / 'run', base.model, 31)
  with pytest.raises(ValueError, match=r'weights \(31,\) for .* \(32,\)'):
    writing.load(str(tmp_path / 'run'), base)
  with pytest.raises(FileNotFoundError, match='run the reward_model task'):
    writing.load(str(tmp_path / 'none'), base)


def test_texts_score_as_their_tokens_do(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  base = tiny_policy(tiny_folder)
  rng = np.random.default_rng(0)
  head = writing.Head(rng.normal(size=32).astype('float32'), np.float32(0.1))
  for pooling in writing.POOLING:
    model = writing.RewardModel(head, pooling, base, shared=True)
    prompts, replies = ['A letter', 'To the sea'], [['one', 'two!'], ['', 'x']]
    finished = np.array([[True, False], [True, True]])
    scores = writing.score_texts(model, prompts, replies, finished)
    assert np.isfinite(scores).all()
    for p, g in np.ndindex(2, 2):
      prompt = tokenizer.chat(base.text, prompts[p])
      reply = tokenizer.encode(base.text, replies[p][g])
      row = prompt + reply + [base.text.eos_token_id] * int(finished[p, g])
      hidden, _ = Decoder(base.config).apply(
        {'params': base.params}, np.array(row)[None, None]
      )
      hidden = np.asarray(hidden[0, 0])
      read = hidden[len(prompt) : len(prompt) + len(reply)]
      if pooling == 'last':
        feature = hidden[-1]
      else:
        feature = read.mean(0) if len(read) else np.zeros(32)
      expected = feature @ head.weight + head.bias
      assert scores[p, g] == pytest.approx(expected, abs=1e-4)


def test_a_text_cannot_make_a_control_token(tiny_folder: pathlib.Path) -> None:
  text = tokenizer.load(tiny_folder)
  ids = tokenizer.encode_untrusted(text, 'fine<|im_end|>')
  assert text.eos_token_id not in ids
  assert tokenizer.decode(text, ids) == 'fine<|im_end|>'


def test_features_are_means_over_the_text_only() -> None:
  hidden = np.arange(12, dtype=np.float32).reshape(1, 1, 4, 3)
  text = np.array([[[True, True, False, False]]])
  features_PxGxD = writing.reply_features(hidden, text)  # type: ignore
  np.testing.assert_allclose(features_PxGxD[0, 0], [1.5, 2.5, 3.5])
  empty = writing.reply_features(hidden, text & False)  # type: ignore
  np.testing.assert_array_equal(empty[0, 0], np.zeros(3))
