"""FLOPs, bytes and times against numbers worked out by hand."""

import dataclasses

import jax
import pytest

from rlcw.models.config import ModelConfig
from rlcw.models.weights import abstract_params
from rlcw.tasks.plan import roofline
from rlcw.tasks.plan.roofline import Chip, Shapes, Work

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
  params = abstract_params(TINY)
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


def with_attention(name: str, head_dim: int = 2) -> ModelConfig:
  return dataclasses.replace(TINY, attention=name, head_dim=head_dim)


def test_attention_of_a_pass_is_counted() -> None:
  # 14 tokens, 2 layers; 2 queries, a key, a value and 2 results of 2 floats
  once = 14 * 2 * (2 + 1 + 1 + 2) * 2 * 4
  assert roofline.pass_bytes(with_attention('auto'), SHAPES) == once
  # a brief scores 3 by 3 tokens, a reply 2 by 3 + 2: by 2 heads in 2 layers
  pairs = 2 * 9 + 4 * 2 * 5
  scores = pairs * 2 * 2 * (4 + 4)
  assert roofline.pass_bytes(with_attention('xla'), SHAPES) == once + scores


def test_attention_of_decoding_is_counted() -> None:
  # a token's keys and values: 2 layers, in float32
  token = 2 * 2 * 128 * 4
  kernel = roofline.decode_bytes(with_attention('auto', 128), SHAPES)
  # at each turn 2 briefs of 3, and then the first of 4 replies' 2 tokens, both
  assert kernel == token * (2 * 3 + 4 * 1 + 2 * 3 + 4 * 2)
  # 4 replies' queries of 2 heads in 2 layers, by 3 + 2 keys
  scores = 4 * 2 * 2 * 5 * (4 + 4)
  xla = roofline.decode_bytes(with_attention('xla', 128), SHAPES)
  assert xla == 2 * (token * (2 * 3 + 4 * 2) + scores)
  # the kernel takes no head of 2
  short = [
    roofline.decode_bytes(with_attention(name), SHAPES)
    for name in ('auto', 'xla')
  ]
  assert short == [2 * (448 + scores)] * 2


def test_a_rollout_reads_weights_and_cache_at_every_turn() -> None:
  work = roofline.rollout(TINY, SHAPES)
  # 6 tokens of briefs, as above; and the cache twice with its scores
  attention = 6 * 2 * 6 * 2 * 4 + 2 * (448 + 640)
  assert work.attention_bytes == attention
  assert work.hbm_bytes == 3 * 328 * 4 + attention


@pytest.mark.parametrize(('remat', 'passes'), [(False, 3), (True, 4)])
def test_an_update_is_counted(remat: bool, passes: int) -> None:
  config = dataclasses.replace(TINY, remat=remat, dtype='bfloat16')
  work = roofline.update(config, SHAPES, 2, 'bfloat16')
  pairs, products = 2 * 6 + 4 * 9, 2 * 288 * 14
  attention = 4 * 2 * 4 * pairs
  assert work.flops == passes * products + 4 * attention + 4 * 640
  # weights 2 bytes, gradient read and written in 4 for each microbatch; then
  # master weights, second and first moment
  attention = 4 * 14 * 2 * 6 * 2 * 2
  weights = 328 * (2 * passes * 2 + 2 * 8 + 2 * (4 + 4 + 2))
  assert work.attention_bytes == attention
  assert work.hbm_bytes == weights + attention


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
