"""FLOPs, bytes and times against numbers worked out by hand."""

import jax
import pytest

from rlcw import roofline, sharding
from rlcw.model_config import ModelConfig
from rlcw.roofline import Chip, Shapes, Work

TINY = ModelConfig(
  vocab_size=10,
  model_dim=4,
  mlp_dim=8,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=2,
)
# 2 briefs of 3 tokens, 2 replies of 2 to each
SHAPES = Shapes(prompts=2, group=2, prompt_tokens=3, reply_tokens=2)


def test_weights_are_counted() -> None:
  # a layer: query and output 4·4 each, key and value 4·2 each, an MLP of 3·4·8
  assert roofline.linear_weights(TINY) == 2 * (16 + 16 + 8 + 8 + 96)
  assert roofline.all_weights(TINY) == 288 + 40


def test_no_weight_but_norms_and_biases_is_left_out() -> None:
  params = sharding.abstract_params(TINY)
  held = sum(
    leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if path[-1].key != 'scale'
  )
  assert roofline.all_weights(TINY) == held


def test_a_forward_pass_is_counted() -> None:
  tokens = 2 * 3 + 4 * 2
  # a brief: 1 + 2 + 3 pairs; a reply: 3 + 1 and 3 + 2
  pairs = 2 * 6 + 4 * 9
  expected = 2 * 288 * tokens + 4 * 2 * 4 * pairs
  assert roofline.blocks_flops(TINY, SHAPES) == expected
  assert roofline.head_flops(TINY, SHAPES) == 2 * 40 * 8


def test_a_cache_is_counted() -> None:
  # 14 tokens, keys and values of 2 layers with a head of 2, in float32
  assert roofline.cache_bytes(TINY, SHAPES) == 14 * 2 * 2 * 2 * 4


def test_a_rollout_reads_weights_and_cache_at_every_turn() -> None:
  work = roofline.rollout(TINY, SHAPES)
  assert work.hbm_bytes == 328 * 4 + 2 * (328 * 4 + 448)


@pytest.mark.parametrize(('remat', 'passes'), [(False, 3), (True, 4)])
def test_an_update_is_counted(remat: bool, passes: int) -> None:
  import dataclasses

  config = dataclasses.replace(TINY, remat=remat, dtype='bfloat16')
  work = roofline.update(config, SHAPES, 2, 'bfloat16')
  blocks = roofline.blocks_flops(TINY, SHAPES)
  assert work.flops == passes * blocks + 4 * 640
  # weights 2 bytes, gradient read and written in 4 for each microbatch; then
  # master weights, second and first moment
  assert work.hbm_bytes == 328 * (2 * passes * 2 + 2 * 8 + 2 * (4 + 4 + 2))


@pytest.mark.parametrize(
  ('work', 'sent', 'bound'),
  [
    (Work(80.0, 8.0), 1.0, 'compute'),
    (Work(8.0, 80.0), 1.0, 'hbm'),
    (Work(8.0, 8.0), 90.0, 'interconnect'),
  ],
)
def test_the_longest_time_bounds(work: Work, sent: float, bound: str) -> None:
  chip = Chip(hbm_gib=1, flops=10.0, hbm_bandwidth=5.0, ici_bandwidth=2.0)
  times = roofline.times(work, sent, chip, chips=4)
  assert times.compute == work.flops / 40
  assert times.hbm == work.hbm_bytes / 20
  assert times.interconnect == sent / 2
  assert times.bound == bound
