"""Briefs in, replies out: in order, whole, and the same after a kill."""

import json
import pathlib
from typing import Any

import numpy as np
import pipeline
import pytest

from rlcw.data import datasets
from rlcw.runtime import files
from rlcw.tasks import generate as tasks_generate

PROMPTS = [f'Write {n} words to the sea.' for n in range(1, 12)]


@pytest.fixture(scope='module')
def briefs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  file = tmp_path_factory.mktemp('briefs') / 'briefs.jsonl'
  for number, prompt in enumerate(PROMPTS):
    files.append_jsonl(file, {'key': number, 'prompt': prompt})
  return file


def generate(
  model: pathlib.Path,
  briefs: pathlib.Path,
  workdir: pathlib.Path,
  **settings: Any,
) -> list[dict[str, Any]]:
  config = pipeline.tiny_config('generate', model, workdir)
  config.input = str(briefs)
  config.update(settings)
  pipeline.run('generate', config, workdir)
  return datasets.read_jsonl(workdir / 'replies.jsonl')


@pytest.fixture(scope='module')
def replies(
  tiny_folder: pathlib.Path,
  briefs: pathlib.Path,
  tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pathlib.Path, list[dict[str, Any]]]:
  workdir = tmp_path_factory.mktemp('replies')
  return workdir, generate(tiny_folder, briefs, workdir)


def test_every_brief_has_its_replies(replies: Any) -> None:
  workdir, rows = replies
  assert [row['key'] for row in rows] == list(range(11))
  assert [row['prompt'] for row in rows] == PROMPTS
  for row in rows:
    assert len(row['responses']) == len(row['finished']) == 2
    assert not any('<|im_' in text for text in row['responses'])
  assert len({text for row in rows for text in row['responses']}) == 22
  summary = json.loads((workdir / 'summary.json').read_text())
  assert summary['prompts'] == 11 and summary['replies'] == 22
  assert 0 < summary['tokens'] <= 22 * 8
  assert summary['tokens_per_second'] > 0


@pytest.mark.slow
def test_replies_do_not_depend_on_their_batch(
  replies: Any,
  tiny_folder: pathlib.Path,
  briefs: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  assert generate(tiny_folder, briefs, tmp_path, batch_size=16) == (replies[1])


@pytest.mark.parametrize('torn', ['', '{"key": 5, "prompt": "Wri'])
def test_a_run_goes_on_where_it_was_killed(
  torn: str,
  replies: Any,
  tiny_folder: pathlib.Path,
  briefs: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  lines = (replies[0] / 'replies.jsonl').read_text().splitlines(True)
  (tmp_path / 'replies.jsonl').write_text(''.join(lines[:5]) + torn)
  assert generate(tiny_folder, briefs, tmp_path) == replies[1]
  summary = json.loads((tmp_path / 'summary.json').read_text())
  # of the whole file, not of the second process alone
  every = [ended for row in replies[1] for ended in row['finished']]
  assert summary['resumed_at'] == 5 and summary['replies'] == len(every)
  assert summary['finished'] == np.mean(every)


def test_briefs_of_like_length_share_a_batch(
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  file, widths = tmp_path / 'briefs.jsonl', []
  for number, words in enumerate([1, 30, 2, 31, 60, 3]):
    prompt = ' '.join(['sea'] * words)
    files.append_jsonl(file, {'key': number, 'prompt': prompt})
  sample = tasks_generate.sample

  def counted(params: Any, prompt_PxL: Any, *inputs: Any, **options: Any):
    widths.append(prompt_PxL.shape[1])
    if len(widths) == 3 and fails:
      raise OSError('the disk is full')
    return sample(params, prompt_PxL, *inputs, **options)

  monkeypatch.setattr(tasks_generate, 'sample', counted)
  fails = False
  whole = generate(tiny_folder, file, tmp_path / 'whole', batch_size=2)
  assert [row['key'] for row in whole] == list(range(6))
  assert widths == sorted(widths, reverse=True) and widths[0] > widths[-1]
  # After two of three batches, those of the longest are there.
  fails = True
  widths.clear()
  with pytest.raises(OSError, match='the disk is full'):
    generate(tiny_folder, file, tmp_path / 'failed', batch_size=2)
  lines = files.read_jsonl(tmp_path / 'failed' / 'replies.jsonl')
  assert [line['key'] for line in lines] == [4, 3, 1, 5]
  assert generate(tiny_folder, file, tmp_path / 'failed', batch_size=2) == whole


@pytest.mark.slow
def test_one_reply_alone_is_ready_to_be_judged(
  replies: Any,
  tiny_folder: pathlib.Path,
  briefs: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  rows = generate(tiny_folder, briefs, tmp_path, samples=1)
  assert [row['response'] for row in rows] == [
    row['responses'][0] for row in replies[1]
  ]
  assert not any('response' in row for row in replies[1])


@pytest.mark.parametrize('samples', [1, 2])
def test_the_input_s_own_replies_are_not_taken_for_samples(
  samples: int, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'briefs.jsonl'
  old = {'response': 'OLD', 'label': 1, 'score': 2.0, 'verdict': 'Good'}
  files.append_jsonl(file, {'key': 0, 'prompt': 'A sea.'} | old)
  pair = {'chosen': 'OLD', 'rejected': 'OLDER', 'split': 'train'}
  files.append_jsonl(file, {'key': 1, 'prompt': 'A sea.'} | pair)
  rows = generate(tiny_folder, file, tmp_path / 'run', samples=samples)
  own = {'response'} if samples == 1 else set()
  assert rows[0].keys() == {'key', 'prompt', 'responses', 'finished'} | own
  assert rows[1].keys() == rows[0].keys() | {'split'}
  assert 'OLD' not in json.dumps(rows)


def test_rules_are_written_into_the_brief() -> None:
  from ml_collections import ConfigDict

  from rlcw.tasks import generate

  record = {
    'prompt': 'A toast.',
    'instruction_id_list': ['length:words'],
    'kwargs': [{'at_most': 20}],
  }
  config = ConfigDict({'write_rules': True, 'system': ''})
  text = generate.prompt_of(record, config, 'x:1')
  assert text.startswith('A toast.') and '20' in text
  config.write_rules = False
  assert generate.prompt_of(record, config, 'x:1') == 'A toast.'


@pytest.mark.parametrize('record', [{}, {'prompt': ' '}, {'prompt': 3}])
def test_a_record_without_a_prompt_is_named(
  record: dict[str, Any], tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'bad.jsonl'
  files.append_jsonl(file, {'prompt': 'A toast.'})
  files.append_jsonl(file, record)
  with pytest.raises(
    ValueError, match=r'bad\.jsonl:2: (a prompt is blank|no prompt|prompt=)'
  ):
    generate(tiny_folder, file, tmp_path)
  assert not (tmp_path / 'replies.jsonl').exists()


def test_a_file_without_briefs_is_refused(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  (tmp_path / 'x.jsonl').touch()
  with pytest.raises(ValueError, match=r'x\.jsonl has no records'):
    generate(tiny_folder, tmp_path / 'x.jsonl', tmp_path)


def test_an_output_of_something_else_is_left_alone(
  tiny_folder: pathlib.Path, briefs: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  other = tmp_path / 'replies.jsonl'
  other.write_text('{"prompt": "mine"}\n')
  with pytest.raises(ValueError, match="lines without 'responses'"):
    generate(tiny_folder, briefs, tmp_path)
  assert other.read_text() == '{"prompt": "mine"}\n'
