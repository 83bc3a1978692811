"""A reward model on the first layers of a decoder."""

import dataclasses
import pathlib

import jax
import numpy as np
import pipeline
import pytest

from rlcw.models import language_model
from rlcw.models.config import ModelConfig
from rlcw.models.language_model import LanguageModel
from rlcw.models.packing import Groups
from rlcw.rewards import pooled, reward_model, text_scores
from rlcw.runtime import command, files, ranges
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.plan.headers import shape_of as plan_shape
from rlcw.tasks.plan.plans import make_plan
from rlcw.tasks.reward_model import depth
from tests.tasks.reward_model_test import save_run

TEXTS = ['To the sea'], [['A wave.', 'Salt and rope']], np.ones((1, 2), bool)


@pytest.fixture(scope='module')
def base(tiny_folder: pathlib.Path) -> LanguageModel:
  return language_model.load(tiny_folder, make_mesh(devices=jax.devices()[:1]))


def save_short_run(
  workdir: pathlib.Path, model: str, pooling: str = 'mean'
) -> reward_model.Head:
  head = save_run(workdir, model, 32, pooling)
  config = files.read_json(workdir / 'config.json')
  files.write_json(workdir / 'config.json', config | {'layers': 1})
  return head


def test_the_first_layers_keep_their_kinds() -> None:
  config = ModelConfig(
    *(64, 8, 16, 3, 2, 1, 4),
    window=4,
    local_layers=(True, False, True),
    rope_layers=(False, True, True),
  )
  first = config.first_layers(2)
  assert (first.num_layers, first.local_layers) == (2, (True, False))
  assert first.rope_layers == (False, True)
  for count in (0, 3):
    assert config.first_layers(count) == config
  assert dataclasses.replace(config, local_layers=()).first_layers(1).window
  with pytest.raises(ValueError, match='layers=4: the model has 3; expected'):
    config.first_layers(4)


def test_layers_that_add_nothing_are_left_out(
  base: LanguageModel, tmp_path: pathlib.Path
) -> None:
  """A run on one layer scores as the whole model whose others add nothing."""
  head = save_short_run(tmp_path, base.source)
  short = reward_model.load(str(tmp_path), base)
  assert short.decoder.config.num_layers == 1 < base.config.num_layers
  leaves = jax.tree.leaves(short.decoder.params['blocks'])
  assert {leaf.shape[0] for leaf in leaves} == {1}
  # the reference's pass does not give its features
  assert not short.shared
  blocks = dict(base.params['blocks'])
  for name in ('output', 'down'):
    kernel = blocks[name]['kernel']
    blocks[name] = {'kernel': kernel.at[1:].set(0)}
  silent = base._replace(params={**base.params, 'blocks': blocks})
  whole = reward_model.RewardModel(head, 'mean', silent, True, end=[1])
  np.testing.assert_allclose(
    text_scores.score(short, *TEXTS),
    text_scores.score(whole, *TEXTS),
    rtol=1e-4,
  )


def test_one_pass_gives_the_features_of_fewer_layers(
  base: LanguageModel,
) -> None:
  rng = np.random.default_rng(0)
  groups = Groups(
    rng.integers(300, size=(2, 4)),
    np.array([4, 2]),
    rng.integers(300, size=(2, 3, 5)),
    np.array([[5, 3, 1], [2, 0, 4]]),
  )
  mask = np.arange(5) < groups.count[..., None]
  found = pooled.layer_features(
    base.params, groups, mask, config=base.config, layers=(1, 2)
  )
  for k, layers in enumerate((1, 2)):
    first = language_model.first_layers(base, layers)
    expected = pooled.features(first.params, groups, mask, config=first.config)
    np.testing.assert_allclose(found[:, :, k], expected, atol=1e-5)


@pytest.mark.parametrize(
  ('layers', 'planned'), [('0', 2), ('1', 1), ('auto', 2)]
)
def test_a_plan_is_of_the_first_layers(
  layers: str, planned: int, tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = pipeline.tiny_config('reward_model', tiny_folder, tmp_path)
  command.override(config, [f'--config.layers={layers}'])
  ranges.check(config)
  assert make_plan(config, make_mesh()).model.num_layers == planned


def test_a_plan_counts_the_layers_of_a_reward_model_run(
  base: LanguageModel, tmp_path: pathlib.Path
) -> None:
  head = save_short_run(tmp_path, base.source)
  first = base.config.first_layers(1)
  assert plan_shape(str(tmp_path)) == first
  # what a run has found is in the head's file
  config = files.read_json(tmp_path / 'config.json') | {'layers': 'auto'}
  files.write_json(tmp_path / 'config.json', config)
  with pytest.raises(FileNotFoundError, match='has not finished'):
    plan_shape(str(tmp_path))
  reward_model.save(head, tmp_path, [1], layers=1)
  assert plan_shape(str(tmp_path)) == first
  files.write_json(tmp_path / 'config.json', config | {'layers': 0})
  reward_model.save(head, tmp_path, [1], layers=2)
  assert plan_shape(str(tmp_path)) == base.config


@pytest.mark.parametrize('layers', ['-1', 'all', '1.5', 'True', ''])
def test_a_number_of_layers_or_auto_is_expected(layers: str) -> None:
  config = pipeline.shipped('reward_model')
  command.override(config, [f'--config.layers={layers}'])
  with pytest.raises(ValueError, match="layers=.* of at least 0 or 'auto'"):
    ranges.check(config)


@pytest.mark.parametrize(
  'learns', ['head', pytest.param('lora', marks=pytest.mark.slow)]
)
def test_a_run_finds_its_layers_and_keeps_their_number(
  learns: str,
  base: LanguageModel,
  tiny_folder: pathlib.Path,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  one_device: None,
) -> None:
  config = pipeline.tiny_config('reward_model', tiny_folder, tmp_path)
  config.update(preferences=pipeline.few_pairs(tmp_path), layers='auto')
  config.train = learns
  # whatever a random model's features are worth
  monkeypatch.setattr(depth, 'fewest', lambda tried: 0)
  summary = pipeline.run('reward_model', config, tmp_path / 'run')
  assert summary['layers'] == 1 < base.config.num_layers
  assert [each['layers'] for each in summary['layers_tried']] == [1, 2]
  reward = reward_model.load(str(tmp_path / 'run'), base)
  assert reward.decoder.config.num_layers == 1
  assert np.isfinite(text_scores.score(reward, *TEXTS)).all()


def test_a_classifier_has_the_first_layers(
  base: LanguageModel, tmp_path: pathlib.Path
) -> None:
  run, out = tmp_path / 'run', tmp_path / 'out'
  save_short_run(run, base.source, 'last')
  config = pipeline.tiny_config('export', run, out)
  config.model = str(run)
  pipeline.run('export', config, out)
  header = files.read_json(out / 'model' / 'config.json')
  assert header['num_hidden_layers'] == 1
  # a classifier has no bias
  models = [reward_model.load(str(each), base) for each in (run, out / 'model')]
  gaps = [np.diff(text_scores.score(each, *TEXTS)) for each in models]
  np.testing.assert_allclose(gaps[1], gaps[0], atol=1e-4)
