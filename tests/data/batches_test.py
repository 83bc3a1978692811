"""Records are checked on the way in; the order of a run is a function."""

import json
import pathlib
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlcw.data import batches, datasets
from rlcw.data.preferences import load_preferences
from rlcw.rewards import briefs
from rlcw.runtime.mesh import data_shard


def test_batch_indices_are_epochs_of_permutations() -> None:
  drawn = [batches.batch_indices(3, step, 4, 10) for step in range(5)]
  epochs = np.concatenate(drawn).reshape(2, 10)
  assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
  assert list(epochs[0]) != list(epochs[1])
  # step 2 spans both epochs, and needs no step before it to be drawn
  np.testing.assert_array_equal(drawn[2], batches.batch_indices(3, 2, 4, 10))
  assert any(
    (a != b).any()
    for a, b in zip(
      drawn, [batches.batch_indices(4, s, 4, 10) for s in range(5)], strict=True
    )
  )


@pytest.mark.parametrize('processes', [1, 2, 4])
@pytest.mark.parametrize('step', [0, 2])  # the second spans two epochs
def test_processes_share_a_step(step: int, processes: int) -> None:
  shares = [
    batches.batch_indices(3, step, 8, 20, process, processes)
    for process in range(processes)
  ]
  assert [len(share) for share in shares] == [8 // processes] * processes
  np.testing.assert_array_equal(
    np.concatenate(shares), batches.batch_indices(3, step, 8, 20)
  )
  assert processes == 1 or step == 2 or len(set(np.concatenate(shares))) == 8


def test_occurrences_are_counted_from_0() -> None:
  found = batches.occurrences(np.array([4, 2, 4, 4, 2, 9]))
  np.testing.assert_array_equal(found, [0, 0, 1, 2, 1, 0])


def test_a_step_may_need_more_records_than_there_are() -> None:
  """Every record then occurs as often as any other, give or take one."""
  for total in (1, 3, 5):
    index_B = batches.step_indices(0, 3, 8, total)
    counts = np.bincount(index_B, minlength=total)
    assert counts.max() - counts.min() <= 2
    assert batches.occurrences(index_B).max() == counts.max() - 1


def test_a_step_that_cannot_be_shared_is_refused() -> None:
  with pytest.raises(ValueError, match='step of 8 does not split over 3'):
    batches.batch_indices(0, 0, 8, 20, 0, 3)


@pytest.mark.parametrize(
  ('owners', 'shares'),
  [
    ([[0, 0], [0, 0]], [(0, 1)]),
    ([[0, 0], [1, 1]], [(0, 2), (1, 2)]),
    ([[2, 2], [0, 0], [1, 1], [3, 3]], [(1, 4), (2, 4), (0, 4), (3, 4)]),
    ([[0, 1], [0, 1], [2, 3], [2, 3]], [(0, 2), (0, 2), (1, 2), (1, 2)]),
  ],
  ids=['one', 'two', 'four, reordered', 'two processes to a row'],
)
def test_a_process_reads_the_rows_of_its_devices(
  owners: list[list[int]],
  shares: list[tuple[int, int]],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  devices = [[SimpleNamespace(process_index=i) for i in row] for row in owners]
  mesh = SimpleNamespace(
    devices=np.array(devices)[None], shape={'data': 1, 'fsdp': len(owners)}
  )
  for process, share in enumerate(shares):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    assert data_shard(mesh) == share


def test_batch_larger_than_the_data_is_refused() -> None:
  with pytest.raises(ValueError, match='step of 8 needs .* there are 5'):
    batches.batch_indices(0, 0, 8, 5)


def test_pad_puts_ids_left_and_buckets_the_width() -> None:
  ids_BxL, length_B = batches.pad([[5, 6, 7], [8]])
  assert ids_BxL.shape == (2, 32)
  np.testing.assert_array_equal(ids_BxL[:, :4], [[5, 6, 7, 0], [8, 0, 0, 0]])
  np.testing.assert_array_equal(length_B, [3, 1])
  assert batches.pad([range(33)])[0].shape == (1, 64)
  with pytest.raises(ValueError, match='3 tokens does not fit into 2'):
    batches.pad([[1, 2, 3]], width=2)


def write(path: pathlib.Path, *lines: str) -> pathlib.Path:
  path.write_text('\n'.join(lines))
  return path


def test_a_malformed_line_is_named(tmp_path: pathlib.Path) -> None:
  path = write(tmp_path / 'b.jsonl', '{"id": 1}', '', '{"id": ')
  with pytest.raises(ValueError, match=r'b\.jsonl:3: not JSON'):
    datasets.read_jsonl(path)
  with pytest.raises(ValueError, match=r'b\.jsonl:1: expected a JSON object'):
    datasets.read_jsonl(write(tmp_path / 'b.jsonl', '[1]'))


def test_a_missing_file_lists_what_ships() -> None:
  with pytest.raises(FileNotFoundError, match='@briefs.jsonl'):
    datasets.read_jsonl('@nothing.jsonl')


BRIEF = {
  'id': 'x',
  'prompt': 'Write.',
  'instruction_id_list': ['length:words'],
  'kwargs': [{'at_most': 5}],
}


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (
      {'instruction_id_list': ['length:wrds']},
      'x: .*length:wrds.*length:words',
    ),
    ({'kwargs': [{'atmost': 5}]}, 'x: .*atmost'),
    ({'kwargs': []}, 'x: '),
    ({'prompt': None}, None),
  ],
)
def test_a_brief_with_an_illegal_rule_is_named(
  tmp_path: pathlib.Path, change: dict, message: str | None
) -> None:
  record = {**BRIEF, **change}
  if message is None:
    del record['prompt']
    message = 'x: .*prompt'
  path = write(tmp_path / 'b.jsonl', json.dumps(record))
  with pytest.raises(ValueError, match=message):
    briefs.load_briefs(path)


def test_a_brief_writes_its_rules_out(tmp_path: pathlib.Path) -> None:
  record = BRIEF | {'language': 'en'}
  path = write(tmp_path / 'b.jsonl', json.dumps(record))
  (brief,) = briefs.load_briefs(path, split='train', language='en')
  assert brief.text.startswith('Write. ')
  assert '5 words' in brief.text
  with pytest.raises(ValueError, match="'zh'; found en: 1"):
    briefs.load_briefs(path, language='zh')


def test_an_empty_side_of_a_pair_is_refused(tmp_path: pathlib.Path) -> None:
  record = {'id': 'p', 'prompt': 'a', 'chosen': 'b', 'rejected': ' '}
  path = write(tmp_path / 'p.jsonl', json.dumps(record))
  with pytest.raises(ValueError, match='p: rejected is blank'):
    load_preferences(path)


@given(
  st.dictionaries(st.integers(0, 99), st.integers(1, 900)), st.integers(1, 9)
)
def test_batches_by_length_are_alike_and_longest_first(
  lengths: dict[int, int], size: int
) -> None:
  found = batches.by_length(lengths, size)
  rows = [row for batch in found for row in batch]
  assert sorted(rows) == sorted(lengths)
  longest_first = [lengths[row] for row in rows]
  assert longest_first == sorted(longest_first, reverse=True)
  for batch in found:
    widths = [batches.power_of_two(lengths[row]) for row in batch]
    assert 0 < len(batch) <= size and 2 * min(widths) >= max(widths)


def test_a_batch_by_length_is_full_unless_widths_differ() -> None:
  # Widths 32, 64, 64, 128, 1024; 64 is half of 128, and 32 of 64.
  lengths = {7: 20, 1: 40, 2: 50, 3: 128, 4: 757}
  assert batches.by_length(lengths, 2) == [[4], [3, 2], [1, 7]]
  assert batches.by_length(lengths, 9) == [[4], [3, 2, 1], [7]]
  assert batches.by_length({}, 2) == []
