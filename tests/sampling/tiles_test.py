"""Live rows are gathered within their shard, none is lost or doubled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcw.runtime.mesh import make_mesh
from rlcw.sampling import tiles
from rlcw.sampling.tiles import Tiling


@pytest.mark.parametrize(
  ('prompts', 'group', 'width', 'sizes'),
  [
    (8, 8, 2, (24, 16, 8)),  # 48, 32 and 16 rows
    (3, 8, 2, (9, 6)),  # 6 rows are too few
    (3, 7, 1, (10,)),  # 15 would copy each brief five times
    (4, 16, 4, (12, 8, 4)),
    (16, 1, 1, (12, 8)),
    (2, 4, 1, ()),
    (1, 1, 1, ()),
    (2, 6, 1, ()),
  ],
)
def test_sizes_are_parts_of_all_rows(
  prompts: int, group: int, width: int, sizes: tuple[int, ...]
) -> None:
  found = tiles.tiling(prompts, group, 90, 64, gather=True)
  assert found == Tiling(1, prompts, group, width, sizes)
  assert tiles.tiling(prompts, group, 90, 64, gather=False).sizes == ()


def test_sizes_are_those_of_a_shard() -> None:
  with jax.set_mesh(make_mesh(2, 2, 2)):
    assert tiles.tiling(8, 8, 90, 64, gather=True) == Tiling(4, 2, 8, 2, (6, 4))
    # Briefs that do not split stay whole.
    assert tiles.tiling(6, 8, 90, 64, gather=True).sizes == ()


def test_briefs_are_not_copied_for_more_memory() -> None:
  for length, sizes in ((90, (24, 16, 8)), (300, (16, 8)), (4000, (8,))):
    assert tiles.tiling(8, 8, length, 64, gather=True).sizes == sizes


COUNTS = 3, 6  # of tiles: few shapes to compile for, and 6 are always enough
_slots = jax.jit(tiles.slots, static_argnums=(0, 1))
_take_tiles = jax.jit(tiles.take_tiles, static_argnums=2)
_take_rows, _put_rows = jax.jit(tiles.take_rows), jax.jit(tiles.put_rows)


@settings(max_examples=20)
@given(st.data())
def test_live_rows_are_taken_and_put_back(data: st.DataObject) -> None:
  """A second gathering, too, of one shard."""
  first = Tiling(1, 3, 4, 2, ())
  origin = np.asarray(tiles.origins(first))
  live = np.array(
    data.draw(st.lists(st.booleans(), min_size=12, max_size=12))
  ).reshape(3, 4)
  for _ in range(2):
    needed = int(tiles.needed(first, origin, live))
    brief = origin // 4
    assert needed == sum(
      -(-int((live & (brief == p)).sum()) // 2) for p in range(3)
    )
    count = data.draw(st.sampled_from([c for c in COUNTS if c >= needed]))
    slot = _slots(first, count, origin, live)
    empty = np.asarray(slot) == live.size
    assert sorted(np.asarray(slot)[~empty]) == [*np.flatnonzero(live)]
    width = live.shape[1]
    owner = _take_tiles(brief[:, 0], slot, width)
    taken = np.array(_take_rows(origin, slot))
    # All rows of a tile are of the brief that it has the keys of.
    rows = np.where(empty, np.asarray(owner)[:, None], taken // 4)
    assert (rows == np.asarray(owner)[:, None]).all()
    origin = np.where(empty, 12, taken)
    put = _put_rows(jnp.full((3, 4), -1), taken, origin)
    assert sorted(put[put >= 0]) == sorted(taken[~empty])
    assert ((put == np.arange(12).reshape(3, 4)) | (put == -1)).all()
    live = ~empty & np.array(
      data.draw(st.lists(st.booleans(), min_size=slot.size, max_size=slot.size))
    ).reshape(slot.shape)


def test_the_fullest_shard_decides() -> None:
  two = Tiling(2, 2, 4, 2, ())
  live = np.zeros((4, 4), bool)
  live[0, 0] = live[1, :3] = live[3] = True
  # 1 + 2 tiles in the first shard, 2 in the second.
  assert tiles.needed(two, tiles.origins(two), jnp.array(live)) == 3
