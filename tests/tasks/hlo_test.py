"""Collectives are read from HLO text as often as their loops turn."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlcw.runtime.mesh import make_mesh
from rlcw.tasks.plan import hlo

# 3 turns of a loop around 4 turns of another, which counts 0, 2, 4, 6.
TEXT = """HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %limit = s32[]{:T(128)} constant(8)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%inner_body (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.1 = (s32[], f32[8]) parameter(0)
  %x = f32[8]{0:T(8)} get-tuple-element(%p.1), index=1
  %large = s32[] constant(99)
  %two = s32[]{:T(128)} constant(2)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %next = s32[]{:T(128)} add(%i.1, %two)
  %sum.1 = f32[8]{0:T(8)} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %t = (s32[], f32[8]) tuple(%next, %sum.1)
}

%outer_condition (p.2: (s32[], f32[8])) -> pred[] {
  %p.2 = (s32[], f32[8]) parameter(0)
  %i.2 = s32[] get-tuple-element(%p.2), index=0
  %three = s32[] constant(3)
  %one = s32[] constant(1)
  ROOT %lt.2 = pred[] compare(%i.2, %three), direction=LT
}

%outer_body (p.3: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.3 = (s32[], f32[8]) parameter(0)
  %decode_x.3 = f32[8]{0} custom-call(%p.3), custom_call_target="tpu_custom_call", backend_config={"body":"TU"}
  %decode_x = f32[8]{0} custom-call(%p.3), custom_call_target="tpu_custom_call"
  %other.1 = f32[8]{0} custom-call(%p.3), custom_call_target="TopK"
  ROOT %w = (s32[], f32[8]) while(%p.3), condition=%inner_condition, body=%inner_body
}

%fused (q: bf16[4]) -> bf16[16] {
  %q = bf16[4] parameter(0)
  ROOT %gather = bf16[16]{0} all-gather(%q), replica_groups=[2,4]<=[8], dimensions={0}
}

ENTRY %main (x.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x.1 = (s32[], f32[8]) parameter(0)
  %g = bf16[16] fusion(%x.1), kind=kLoop, calls=%fused
  %start = (bf16[6]{0}, bf16[6]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%g), source_target_pairs={{0,1},{1,0}}
  %fwd.2.remat = (f32[8]{0}, /*index=1*/f32[8]{0}) custom-call(%g), custom_call_target="tpu_custom_call"
  %done = bf16[6]{0} collective-permute-done(%start)
  ROOT %w.1 = (s32[], f32[8]) while(%x.1), condition=%outer_condition, body=%outer_body
}
"""  # noqa: E501


def test_kernels_are_counted_by_name() -> None:
  assert hlo.kernels(TEXT) == {'decode_x': 2 * 3, 'fwd': 1}


def test_a_collective_counts_as_often_as_its_loops_turn() -> None:
  assert hlo.collectives(TEXT) == {
    # a ring of 4 sends 2 · 3/4 of 32 bytes, 3 · 4 times
    'all-reduce': (12, 12 * 48.0),
    # of 32 gathered bytes three quarters pass through each device
    'all-gather': (1, 24.0),
    'collective-permute': (1, 12),
  }


def test_a_collective_spread_over_fusions_counts_once() -> None:
  line = (
    'all-gather(%x), channel_id=7, replica_groups={{0,1}}, dimensions={0}\n'
  )
  piece = f'  %g = f32[8]{{0}} {line}'
  other = piece.replace('channel_id=7', 'channel_id=8')
  text = TEXT.replace('  %large =', piece + '  %large =')
  text = text.replace('  %start =', piece + other + '  %start =')
  assert hlo.collectives(text)['all-gather'] == (3, 24.0 + 2 * 16.0)


@pytest.mark.parametrize(
  ('groups', 'size'),
  [
    ('replica_groups={{0,1},{2,3}}', 2),
    ('replica_groups=[2,8]<=[16]', 8),
    ('replica_groups=[4,4]<=[4,4]T(1,0)', 4),
    ("replica_groups=mesh['a'=4,'b'=2] {'a'}", 4),
    ("replica_groups=mesh['a'=4,'b'=2] {'a','b'}", 8),
    ("replica_groups=mesh['a'=8,'b'=2] {'a':(2)4}", 4),
    ('', 1),
  ],
)
def test_a_group_is_read_in_every_way_that_it_is_written(
  groups: str, size: int
) -> None:
  assert hlo.group_size(f'all-reduce(%x), {groups}, to_apply=%add') == size


def test_the_bytes_of_every_type_are_known() -> None:
  shape = '(f32[2,3]{1,0}, bf16[4], pred[5], s8[6], f8e4m3fn[7], u32[])'
  assert hlo.array_bytes(shape) == [24, 8, 5, 6, 7, 4]


def test_a_reduce_scatter_sends_all_but_its_own_part() -> None:
  line = '  %r = f32[4]{0} reduce-scatter(%x), replica_groups={{0,1,2,3}}'
  text = f'ENTRY %m (x: f32[16]) -> f32[4] {{\n{line}\n}}'
  assert hlo.collectives(text) == {'reduce-scatter': (1, 48)}


def test_a_sum_of_which_each_keeps_a_part_is_a_reduce_scatter() -> None:
  """As a TPU's compiler writes it, in a fusion."""
  text = """%all-reduce-scatter.2 (x: f32[16]) -> f32[4] {
  %x = f32[16]{0} parameter(0)
  %all-reduce.1 = f32[16]{0} all-reduce(%x), replica_groups={{0,1,2,3}}
  ROOT %part = f32[4]{0} dynamic-slice(%all-reduce.1, %i)
}

ENTRY %main (x: f32[16]) -> f32[4] {
  ROOT %f = f32[4]{0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.2
}
"""
  assert hlo.collectives(text) == {'reduce-scatter': (1, 48)}


def test_what_xla_writes_is_read() -> None:
  """A sum over 8 devices in a loop of 5 turns."""
  mesh = make_mesh(1, 8, 1)
  place = NamedSharding(mesh, PartitionSpec('fsdp'))
  x_N = jax.ShapeDtypeStruct((64,), jnp.float32, sharding=place)

  def total(x_N: jax.Array) -> jax.Array:
    def add(_: int, y: jax.Array) -> jax.Array:
      return y + (x_N * jnp.cos(y)).sum()

    return jax.lax.fori_loop(0, 5, add, jnp.float32(0))

  text = jax.jit(total).lower(x_N).compile().as_text()
  assert hlo.collectives(text) == {'all-reduce': (5, 5 * 2 * 7 / 8 * 4)}
