"""FLOPs, bytes and times against numbers worked out by hand."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest

from rlcw.models.config import LoraConfig, ModelConfig
from rlcw.models.weights import abstract_params
from rlcw.runtime import files
from rlcw.sampling import tiles
from rlcw.tasks.plan import load, roofline
from rlcw.tasks.plan.roofline import Chip, Decoding, Shapes, Work

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


def test_weights_of_products_are_counted() -> None:
  # a layer: query and output 4·4 each, key and value 4·2 each, an MLP of 3·4·8
  weights = 2 * (16 + 16 + 8 + 8 + 96)
  assert roofline.linear_weights(TINY) == weights
  held = sum(
    leaf.size
    for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_params(TINY))
    if path[-1].key == 'kernel'
  )
  assert weights == held


def test_a_forward_pass_is_counted() -> None:
  assert SHAPES.tokens == 2 * 3 + 4 * 2
  # a brief: 1 + 2 + 3 pairs; a reply: 3 + 1 and 3 + 2
  pairs = 2 * 6 + 4 * 9
  assert roofline.attention_flops(TINY, SHAPES) == 4 * 2 * 4 * pairs
  assert roofline.product_flops(TINY, 10) == 2 * 288 * 10
  assert roofline.blocks_flops(TINY, SHAPES) == (
    2 * 288 * 14 + 4 * 2 * 4 * pairs
  )
  assert roofline.logit_flops(TINY, 10) == 2 * 40 * 10


def test_a_cached_token_is_counted() -> None:
  # keys and values of 2 layers with a head of 2, in float32
  assert roofline.token_bytes(TINY) == 2 * 2 * 2 * 4
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


# Of 3 iterations the last does not run; 4 replies, then 2, with 2 briefs.
LONGER = SHAPES._replace(reply_tokens=4)
DECODING = Decoding(np.array([4.0, 2.0, 0.0]), np.array([2.0, 2.0, 0.0]))


def test_attention_of_decoding_is_counted() -> None:
  # a token's keys and values: 2 layers, in float32
  token = 2 * 2 * 128 * 4
  kernel = roofline.decode_bytes(with_attention('auto', 128), LONGER, DECODING)
  # at each turn 2 briefs of 3; the first of 4 replies' tokens, both of 2
  assert kernel == token * (2 * 3 + 4 * 1 + 2 * 3 + 2 * 2)
  # 4 and 2 replies' queries of 2 heads in 2 layers, by 3 + 4 keys
  scores = (4 + 2) * 2 * 2 * 7 * (4 + 4)
  xla = roofline.decode_bytes(with_attention('xla', 128), LONGER, DECODING)
  assert xla == token * (2 * 2 * 3 + (4 + 2) * 4) + scores
  # the kernel takes no head of 2
  short = [
    roofline.decode_bytes(with_attention(name), LONGER, DECODING)
    for name in ('auto', 'xla')
  ]
  assert short == [32 * 36 + scores] * 2


def test_a_rollout_reads_weights_at_every_turn() -> None:
  before = roofline.prefill(TINY, LONGER, 1000)
  # 6 tokens of briefs and their 12 pairs; 4 first tokens drawn
  assert before.flops == 2 * 288 * 6 + 4 * 2 * 4 * 12 + 2 * 40 * 4
  assert before.weight_bytes == 1000
  assert before.attention_bytes == 6 * 2 * 6 * 2 * 4
  work = roofline.decode(TINY, LONGER, DECODING, 1000)
  # 4 replies see 3 + 1 keys, and 2 see 3 + 2
  pairs = 4 * 4 + 2 * 5
  assert work.flops == 2 * 288 * 6 + 2 * 40 * 6 + 4 * 2 * 4 * pairs
  assert work.weight_bytes == 2 * 1000
  assert work.attention_bytes == roofline.decode_bytes(TINY, LONGER, DECODING)


def test_replies_of_one_token_are_not_decoded() -> None:
  short, none = SHAPES._replace(reply_tokens=1), np.zeros(0)
  work = roofline.decode(TINY, short, Decoding(none, none), 1000)
  assert work == Work(0.0, 0, 0.0)


def test_a_pass_is_over_packed_rows_but_attention_is_not() -> None:
  work = roofline.score(TINY, SHAPES, 9, 1000)
  assert work.flops == 2 * 288 * 9 + roofline.attention_flops(TINY, SHAPES)
  assert work.weight_bytes == 1000
  assert work.attention_bytes == roofline.pass_bytes(TINY, SHAPES)
  with_logits = roofline.score(TINY, SHAPES, 9, 1000, 9)
  assert with_logits.flops == work.flops + 2 * 40 * 9


@pytest.mark.parametrize(
  ('remat', 'train', 'products'),
  [(False, 'all', 3), (True, 'all', 4), (False, 'lora', 2), (True, 'lora', 3)],
)
def test_a_gradient_is_counted(remat: bool, train: str, products: int) -> None:
  adapters = LoraConfig(2, 4.0, ('query',)) if train == 'lora' else None
  config = dataclasses.replace(TINY, remat=remat, lora=adapters)
  work = roofline.gradient(config, SHAPES, 9, 8, 2, 1000, 300)
  attention = roofline.attention_flops(TINY, SHAPES)
  heads = 3 + (train == 'all')
  assert work.flops == (
    products * 2 * 288 * 9 + 4 * attention + heads * 2 * 40 * 8
  )
  # of two parts: weights for each product; the gradient, read and written
  assert work.weight_bytes == 2 * (products * 1000 + 2 * 300)
  assert work.attention_bytes == 4 * roofline.pass_bytes(TINY, SHAPES)


def test_an_optimiser_reads_a_gradient_and_writes_its_state() -> None:
  assert roofline.optimiser(300, 500) == Work(0.0, 300 + 2 * (300 + 500))


@pytest.mark.parametrize(
  ('work', 'sent', 'bound', 'least'),
  [
    (Work(80.0, 1.0, 2.0), 1.0, 'compute', 2.0),
    (Work(8.0, 20.0, 2.0), 1.0, 'hbm', 4.2),
    (Work(8.0, 1.0, 2.0), 90.0, 'interconnect', 45.0),
  ],
)
def test_the_longest_time_bounds(
  work: Work, sent: float, bound: str, least: float
) -> None:
  chip = Chip(hbm_gib=1, flops=10.0, hbm_bandwidth=5.0, ici_bandwidth=2.0)
  times = roofline.times(work, sent, 0, chip, chips=4, sharing=2)
  assert times.compute == work.flops / 40
  # each chip has all its weights, and half of attention
  assert times.hbm == (work.weight_bytes + work.attention_bytes / 2) / 5
  assert times.interconnect == sent / 2
  assert (times.bound, times.least) == (bound, pytest.approx(least))


def test_what_waits_for_collectives_takes_longer_by_their_latency() -> None:
  chip = Chip(hbm_gib=1, flops=10.0, hbm_bandwidth=5.0, ici_bandwidth=2.0)
  work = Work(40.0, 1.0)
  alone, waiting = (
    roofline.times(work, 1.0, waits, chip, 4, 4) for waits in (0, 2_000_000)
  )
  assert alone.least == 1.0 and waiting.latency == pytest.approx(2)
  assert waiting.least == pytest.approx(3)


# --- The load of a step -----------------------------------------------------


def test_lengths_of_two_turns_are_no_lengths_of_rows(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'rollouts.jsonl'
  group = {'replies': [{'length': 3}]}
  files.append_jsonl(file, group)
  assert load.quantiles(str(file), 2, 9).tolist() == [3, 3]
  files.append_jsonl(file, group | {'turns': ['a', 'b']})
  with pytest.raises(ValueError, match='is of two turns'):
    load.check(str(file))


def test_quantiles_of_a_lognormal_are_those_of_its_formula() -> None:
  # 10, 30, 50, 70 and 90% of a normal: ∓1.2816, ∓0.5244 and 0, times 0.8
  found = load.quantiles('lognormal:600,0.8', 5, 2048)
  logs = 0.8 * np.array([-1.28155, -0.52440, 0, 0.52440, 1.28155])
  assert found.tolist() == np.ceil(600 * np.exp(logs)).tolist()
  assert load.quantiles('lognormal:600,0.8', 5, 1000).tolist()[3:] == [
    913,
    1000,
  ]
  assert load.quantiles('lognormal:600,0', 3, 2048).tolist() == [600] * 3
  assert load.quantiles('', 3, 2048).tolist() == [2048] * 3


def test_lengths_of_a_run_are_quantiles_of_its_log(
  tmp_path: pathlib.Path,
) -> None:
  log = tmp_path / 'rollouts.jsonl'
  lengths = [[1, 9, 5], [7, 3, 400]]
  lines = [{'replies': [{'length': n} for n in row]} for row in lengths]
  log.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  assert load.quantiles(str(log), 6, 64).tolist() == [1, 3, 5, 7, 9, 64]
  assert load.quantiles(str(log), 3, 64).tolist() == [1, 5, 9]
  found = load.reply_lengths(str(log), Shapes(3, 2, 4, 64))
  assert found.shape == (3, 2)
  assert sorted(found.ravel()) == [1, 3, 5, 7, 9, 64]
  again = load.reply_lengths(str(log), Shapes(3, 2, 4, 64))
  np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize(
  'setting',
  [
    'lognormal:600',
    'lognormal:600,0.8,1',
    'lognormal:a,b',
    'lognormal:0,1',
    'lognormal:600,-1',
    'lognormal:nan,1',
    'lognormal:600,inf',
    'lognormal:',
  ],
)
def test_a_wrong_distribution_is_refused_by_its_setting(setting: str) -> None:
  with pytest.raises(ValueError, match=r'plan.reply_tokens=.*lognormal:600,0'):
    load.check(setting)


def test_a_wrong_log_is_refused_by_its_setting(tmp_path: pathlib.Path) -> None:
  with pytest.raises(FileNotFoundError, match=r'plan.reply_tokens=.*no such'):
    load.check(str(tmp_path / 'none.jsonl'))
  log = tmp_path / 'other.jsonl'
  for text in ('', '{"text": "a"}\n', '{"replies": [{"length": "x"}]}\n'):
    log.write_text(text)
    with pytest.raises(ValueError, match=r'plan.reply_tokens=.*no replies'):
      load.check(str(log))


def test_rows_are_decoded_until_they_fit_a_smaller_batch() -> None:
  # 2 shards of 2 briefs; tiles of 2 replies, and batches of 4, 3, 2 or 1 tiles
  tiling = tiles.Tiling(2, 2, 4, 2, (3, 2, 1))
  length_PxG = np.array(
    [[1, 3, 3, 5], [2, 2, 3, 4], [1, 1, 1, 2], [1, 1, 1, 1]]
  )
  found = load.decoding(length_PxG, tiling, 8)
  # Replies longer than t = 1: 3 + 4 on the first shard, hence 2 + 2 tiles of
  # its 4, so all 8 rows of both shards.  t = 2: 3 + 2, so 2 + 1 tiles; t = 3:
  # 1 + 1 in 2 tiles; t = 4: 1 in one.
  assert found.rows.tolist() == [16, 12, 8, 4, 0, 0, 0]
  # before the first gathering each brief is read once for its whole group
  assert found.briefs.tolist() == [4, 6, 4, 2, 0, 0, 0]


def test_all_rows_are_decoded_where_none_are_gathered() -> None:
  tiling = tiles.Tiling(1, 2, 2, 1, ())
  found = load.decoding(np.array([[1, 3], [1, 1]]), tiling, 4)
  assert found.rows.tolist() == [4, 4, 0]
  assert found.briefs.tolist() == [2, 2, 0]


def test_replies_of_full_length_fill_the_widest_rows() -> None:
  shapes = Shapes(8, 4, 256, 512)
  # 2 parts of 4 groups, 2 in each of a part's 2 rows
  full = load.pack(np.full((8, 4), 512), shapes, 4, 2)
  assert full == load.Packed(4, 2, 2 * (256 + 4 * 512), shapes.tokens)
  half = load.pack(np.full((8, 4), 256), shapes, 4, 2)
  assert half[:3] == full[:3]  # compiled for replies of full length
  real = 8 * (256 + 4 * 256)
  assert real <= half.tokens < 1.25 * real
  # a single part
  assert load.pack(np.full((8, 4), 512), shapes, 0, 2)[:2] == (8, 1)


def test_rows_that_are_padded_more_are_as_wide_as_they_are_full() -> None:
  shapes = Shapes(4, 2, 100, 60)
  padded = Shapes(4, 2, 128, 128)
  found = load.pack(np.full((4, 2), 60), shapes, 2, 1, padded)
  # 2 groups have 440 tokens, of 768 padded: 0.8² of them are 491.5
  assert found.widest == 496 and found.tokens == 2 * 496
