"""A run learns what it is rewarded for, so that more than code is tested.

A tiny model that seldom writes the keywords of its briefs has to, in replies
that end in time, beside a writing reward for different words.
"""

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pipeline
import pytest
from tiny_grpo import run, settings

from rlcw.data import datasets
from rlcw.models import packing
from rlcw.tasks.grpo import step

pytestmark = pytest.mark.usefixtures('one_device')
FEW = 5  # steps, of 64 replies each


def kept(rows: list[dict[str, Any]]) -> float:
  """The share of replies that keep every rule and end."""
  return 1 - float(np.mean([row['violation_rate'] for row in rows]))


@pytest.mark.slow
def test_a_run_learns_to_keep_rules(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """From under 20% to over 80%.

  With seeds 0, 1 and 2 it rose from 8%, 6% and 5% to 93%, 97% and 93%.
  """
  config = settings(
    apprentice, tmp_path, writing='tiny_grpo:variety', steps=150
  )
  rows = run(config, tmp_path / 'grpo')
  assert kept(rows[:3]) < 0.2
  assert kept(rows[-FEW:]) > 0.8
  assert np.mean([row['writing'] for row in rows[-FEW:]]) > 2.5  # of 3


@pytest.mark.slow
def test_a_run_with_its_advantages_turned_round_does_not(
  apprentice: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """So the test above could fail."""
  make_mix = step.make_mix

  def turned(config: Any) -> Any:
    mix = make_mix(config)
    return lambda *scores: (mixed := mix(*scores))._replace(
      advantage=-mixed.advantage
    )

  monkeypatch.setattr(step, 'make_mix', turned)
  config = settings(apprentice, tmp_path, writing='tiny_grpo:variety', steps=60)
  assert kept(run(config, tmp_path / 'grpo')[-FEW:]) < 0.1


# More briefs than a step learns from.
OVERSAMPLED = {
  'writing': 'tiny_grpo:variety',
  'prompts_per_step': 4,
  'microbatch_groups': 2,
  'oversample': 1.5,
  'kl_weight': 0.0,
}


def test_more_briefs_are_sampled_and_those_without_signal_dropped(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  rows = run(settings(apprentice, tmp_path, steps=2, **OVERSAMPLED), tmp_path)
  assert [row['dropped_groups'] for row in rows] == pytest.approx([1 / 3] * 2)
  groups = datasets.read_jsonl(tmp_path / 'rollouts.jsonl')
  for number in range(2):
    signal, kept = np.array(
      [
        (any(abs(r['advantage']) > 1e-3 for r in g['replies']), g['kept'])
        for g in groups
        if g['step'] == number
      ]
    ).T
    assert len(kept) == 6 and kept.sum() == 4
    # a group with a signal is dropped only after four others
    assert signal[kept].sum() == min(signal.sum(), 4)
    assert all(
      signal[:n][kept[:n]].sum() == 4 for n in np.flatnonzero(signal & ~kept)
    )


@pytest.mark.slow
def test_a_run_that_drops_groups_goes_on_as_if_it_had_not_stopped(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = settings(
    apprentice, tmp_path, steps=2, checkpoint_every=1, **OVERSAMPLED
  )
  whole = run(config, tmp_path / 'whole')
  # as if it had been killed in its second step
  shutil.copytree(tmp_path / 'whole', tmp_path / 'parts')
  (tmp_path / 'parts' / 'summary.json').unlink()
  shutil.rmtree(tmp_path / 'parts' / 'checkpoints' / '2')
  parts = run(config, tmp_path / 'parts')
  assert len(parts) == 2
  for name in ('loss', 'grad_norm', 'padding', 'dropped_groups', 'reward'):
    assert [row[name] for row in parts] == [row[name] for row in whole]


@pytest.mark.slow
def test_a_run_of_several_updates_goes_on_as_if_it_had_not_stopped(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """With all that an update may have, and no more programs than widths."""
  changes = {
    'writing': 'tiny_grpo:variety',
    'prompts_per_step': 4,
    'microbatch_groups': 2,
    'oversample': 1.5,
    'updates_per_rollout': 4,
    'minibatch_groups': 2,
    'tis': 2.0,
    'dual_clip': 3.0,
    'entropy_weight': 0.01,
    'weight_decay': 0.01,
    'learning_rate': 1e-2,
  }
  config = settings(apprentice, tmp_path, steps=4, **changes)
  whole = run(config, tmp_path / 'whole')
  config.steps = 2
  run(config, tmp_path / 'parts')
  config.steps = 4
  parts = run(config, tmp_path / 'parts')
  names = {n for n in whole[0] if 'second' not in n and n != 'compilations'}
  assert {'sampler_gap_max', 'tis_clipped', 'entropy_exact'} <= names
  for before, after in zip(whole, parts, strict=True):
    assert {n: before[n] for n in names} == {n: after[n] for n in names}
  assert any(row['clip_fraction'] > 0 for row in whole)
  # the sampler's program differs by rounding alone
  assert all(row['sampler_gap'] < 1e-4 for row in whole)
  # a width has a program each for the reference, the old policy, the update
  most = 3 * len(packing.widths(2, 32, 8, 16))
  assert whole[-1]['compilations'] - whole[0]['compilations'] <= most


@pytest.mark.slow
def test_programs_are_compiled_once_for_each_width(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = settings(
    apprentice,
    tmp_path,
    writing='tiny_grpo:variety',
    prompts_per_step=4,
    microbatch_groups=2,
    steps=8,
  )
  rows = run(config, tmp_path / 'grpo')
  sizes = packing.widths(2, 32, 8, 16)
  # a width has a program for the reference and one for the update
  assert rows[-1]['compilations'] - rows[0]['compilations'] <= 2 * len(sizes)
  assert rows[-1]['compilations'] == rows[-3]['compilations']


@pytest.mark.slow
def test_a_run_on_plain_prompts_reads_their_rules_once(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = settings(apprentice, tmp_path, writing='tiny_grpo:variety', steps=1)
  config.extract_rules = True
  file = tmp_path / 'briefs.jsonl'
  prompts = [
    json.dumps({'prompt': f'{n}. Use the word "sea".', 'split': 'train'})
    for n in range(16)
  ]
  file.write_text('\n'.join(prompts) + '\n')
  summary = pipeline.run('grpo', config, tmp_path / 'run')
  assert summary['extracted']['by_instruction'] == {'keywords:existence': 16}
  briefs = datasets.read_jsonl(tmp_path / 'run' / 'briefs.jsonl')
  assert all(brief['stated'] for brief in briefs)
  [group, *_] = datasets.read_jsonl(tmp_path / 'run' / 'rollouts.jsonl')
  # The model is asked once, in the words of the prompt.
  assert group['prompt'] in {brief['prompt'] for brief in briefs}


@pytest.mark.slow
def test_a_second_update_of_a_rollout_saves_rollouts(
  apprentice: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  """Rollouts until half of the replies keep every rule, over five steps.

  Prints them for one update, two of half of the groups, and two of all groups.
  With seeds 0, 1 and 2 it was 30, 41, 27; 17, 18, 21; and 17, 22, 22.
  """
  arms = {'one': {}, 'halves': {}, 'twice': {'minibatch_groups': 8}}
  needed: dict[str, list[int]] = {name: [] for name in arms}
  for name, changes in arms.items():
    for seed in range(3):
      config = settings(
        apprentice,
        tmp_path,
        writing='tiny_grpo:variety',
        steps=150,
        seed=seed,
        updates_per_rollout=1 if name == 'one' else 2,
        **changes,
      )
      rows = run(config, tmp_path / f'{name}-{seed}')
      means = [kept(rows[n : n + FEW]) for n in range(len(rows) - FEW)]
      needed[name].append(FEW + int(np.argmax(np.array(means) >= 0.5)))
  print(needed)
  assert max(needed['halves'] + needed['twice']) < np.mean(needed['one'])
