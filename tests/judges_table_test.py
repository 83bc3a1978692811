"""The table of scripts/judges_table.py, from verdicts of its runs."""

import json
import pathlib

import judges_table
import pytest

LABELS = 1, 0, 1, 0


def _write(workdir: pathlib.Path, name: str, good: list[float | None]) -> None:
  """Writes a judge's probabilities for four replies of like length."""
  rows = [
    {
      'prompt': str(n // 2),
      'response': 'abcd',
      'label': label,
      'p_good': p_good,
      'verdict': None if p_good is None else ('Bad', 'Good')[p_good > 0.5],
    }
    for n, (label, p_good) in enumerate(zip(LABELS, good, strict=True))
  ]
  (workdir / name).mkdir()
  lines = [json.dumps(row) + '\n' for row in rows]
  (workdir / name / 'verdicts.jsonl').write_text(''.join(lines))


def test_judges_are_compared_on_the_same_replies(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  _write(tmp_path, 'small', [0.9, 0.8, 0.8, 0.9])
  _write(tmp_path, 'small_trained', [0.9, 0.2, 0.8, 0.3])
  # Without the last, one pair of two is right.  A threshold set by the other
  # prompt calls the first two replies Good and the third Bad.
  _write(tmp_path, 'large', [0.6, 0.7, 0.8, None])
  judges_table.main(str(tmp_path))
  lines = capsys.readouterr().out.splitlines()
  rows = {line.split()[0]: line.split() for line in lines[1:-1] if line.split()}
  assert 'judges: 4 held-out replies, 2 pairs of like length' in lines[0]
  assert rows['small'][1:3] == ['100.0%', '50.0%']
  assert rows['small_trained'][1:5] == ['50.0%', '100.0%', '100.0%', '1.000']
  assert rows['large'][1:5] == ['100.0%', '50.0%', '25.0%', '0.500']
  assert 'like length: +0.500' in lines[-1]
