"""What the reward model learns from, and the numbers it is judged by."""

import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from rlcw import data, reward_model, tokenizer
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


def test_a_head_comes_back_and_refuses_another_trunk(
  tmp_path: pathlib.Path,
) -> None:
  head = writing.Head(np.arange(4, dtype=np.float32), np.float32(0.5))
  writing.save(head, tmp_path)
  (tmp_path / 'config.json').write_text('{"model": "here"}')
  again = writing.load(tmp_path, 'here', 4)
  np.testing.assert_array_equal(again.weight, head.weight)
  assert again.bias == 0.5
  with pytest.raises(ValueError, match="'here'.*cannot read 'there'"):
    writing.load(tmp_path, 'there', 4)
  with pytest.raises(FileNotFoundError, match='reward_model task'):
    writing.load(tmp_path / 'none', 'here', 4)


def test_features_are_means_over_the_text_only() -> None:
  hidden = np.arange(12, dtype=np.float32).reshape(1, 1, 4, 3)
  text = np.array([[[True, True, False, False]]])
  features_PxGxD = writing.reply_features(hidden, text)  # type: ignore
  np.testing.assert_allclose(features_PxGxD[0, 0], [1.5, 2.5, 3.5])
  empty = writing.reply_features(hidden, text & False)  # type: ignore
  np.testing.assert_array_equal(empty[0, 0], np.zeros(3))
