"""The table of scripts/judges_table.py, from verdicts of its runs."""

import json
import pathlib

import judges_table
import pytest

LABELS = 1, 0, 1, 0, 1, 0


def _write(workdir: pathlib.Path, name: str, good: list[float | None]) -> None:
  """Writes a judge's probabilities for six replies, two to a prompt."""
  rows = [
    {
      'prompt': [{'role': 'user', 'content': str(n // 2)}],
      # without the thought they are of like length
      'response': f'<think>{"x" * 9 * n}</think>abcd',
      'label': label,
      'p_good': p_good,
      'verdict': None if p_good is None else ('Bad', 'Good')[p_good > 0.5],
    }
    for n, (label, p_good) in enumerate(zip(LABELS, good, strict=True))
  ]
  (workdir / name).mkdir()
  lines = [json.dumps(row) + '\n' for row in rows]
  (workdir / name / 'verdicts.jsonl').write_text(''.join(lines))
  (workdir / name / 'summary.json').write_text('{}')


def test_judges_are_compared_on_the_replies_that_all_answered(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  _write(tmp_path, 'small', [0.9, 0.8, 0.8, 0.9, 0.9, 0.8])
  _write(tmp_path, 'small_trained', [0.9, 0.2, 0.8, 0.3, 0.7, 0.4])
  _write(tmp_path, 'large', [0.6, 0.7, 0.8, 0.5, 0.5, None])
  judges_table.main(str(tmp_path))
  lines = capsys.readouterr().out.splitlines()
  assert 'judges: 5 held-out replies, 6 pairs of like length' in lines[0]
  assert '0.500 on these pairs' in lines[0]
  rows = {line.split()[0]: line.split()[1:] for line in lines[3:-1]}
  assert rows['small'][:2] == ['100.0%', '50.0%']
  assert rows['small_trained'][:2] == ['60.0%', '100.0%']
  # 0.7 is above 0.6 and 0.5, and 0.5 a tie
  assert rows['large'][:2] == ['60.0%', '58.3%'] and '0.583' in rows['large']
  # less than 1 of Good, and more than half of Bad: over three prompts
  assert ': +0.417 (-' in lines[-1] and lines[-1].endswith('to +1.000)')


def test_runs_of_other_replies_are_refused(tmp_path: pathlib.Path) -> None:
  _write(tmp_path, 'large', [0.5] * 6)
  with pytest.raises(ValueError, match="expected finished runs.*'small_tra"):
    judges_table.load(tmp_path)
  _write(tmp_path, 'small_trained', [0.5] * 6)
  file = tmp_path / 'large' / 'verdicts.jsonl'
  file.write_text(''.join(reversed(file.read_text().splitlines(True))))
  with pytest.raises(ValueError, match='expected verdicts on the replies'):
    judges_table.load(tmp_path)
