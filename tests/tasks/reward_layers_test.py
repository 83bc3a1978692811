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
from rlcw.rewards import reward_model
from rlcw.runtime import files
from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.plan.plans import make_plan
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
    reward_model.score_texts(short, *TEXTS),
    reward_model.score_texts(whole, *TEXTS),
    rtol=1e-4,
  )


def test_a_plan_is_of_the_first_layers(
  tiny_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
  config = pipeline.tiny_config('reward_model', tiny_folder, tmp_path)
  config.layers = 1
  assert make_plan(config, make_mesh()).model.num_layers == 1


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
  gaps = [np.diff(reward_model.score_texts(each, *TEXTS)) for each in models]
  np.testing.assert_allclose(gaps[1], gaps[0], atol=1e-4)
