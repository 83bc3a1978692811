"""Agreement of classes of replies with given ones."""

import json
import pathlib
import sys
from typing import Any

import measure_novelty
import pytest


def test_agreement_of_a_worked_example() -> None:
  groups = [
    # ours: 0 0 1; one pair of theirs is found, none of the others is joined
    (['the sea', 'The sea!', 'a fox'], [0, 0, 1]),
    # ours: 0 1 2; given as one class
    (['a', 'b', 'c'], [0, 0, 0]),
    # ours: 0 0; given as two
    (['a', 'a'], [0, 1]),
  ]
  found = measure_novelty.agreement(groups)
  assert found.ours == pytest.approx(6 / 3)
  assert found.given == pytest.approx(5 / 3)
  assert found.same == pytest.approx(1 / 4)
  assert found.different == pytest.approx(2 / 3)


def test_a_file_of_replies_is_counted_by_its_prompts(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  file = tmp_path / 'replies.jsonl'
  rows = [('A?', 'yes'), ('A?', 'Yes.'), ('B?', 'yes'), ('B?', 'no')]
  lines: list[dict[str, Any]] = [{'prompt': p, 'response': r} for p, r in rows]
  # several samples in a line
  lines.append({'prompt': 'C?', 'responses': ['a', 'a']})
  file.write_text('\n'.join(map(json.dumps, lines)), encoding='utf-8')
  monkeypatch.setattr(sys, 'argv', ['measure_novelty.py', str(file)])
  measure_novelty.main()
  assert '1.33 classes of 2.0 replies to a prompt' in capsys.readouterr().out
