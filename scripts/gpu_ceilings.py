"""What a device can do at best, as XLA's own programs reach it."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlcw.tasks.plan.roofline import GIB


class Scale(NamedTuple):
  """How large the measurements are that a platform makes in seconds."""

  dtype: str  # of the models' activations and of the matrix products
  square: int  # side of the largest matrix product
  chain: int  # how often a measured operation is repeated in one call
  traffic: int  # bytes of the array that is read and copied
  repeats: int = 5


SCALES = {
  'gpu': Scale('bfloat16', 8192, 32, 4 * GIB),
  'cpu': Scale('float32', 512, 4, 2**26),
}


class Timing(NamedTuple):
  """Seconds of a call: of the first, which compiles, and of those after it."""

  first: float
  rest: list[float]

  @property
  def median(self) -> float:
    return statistics.median(self.rest)


def timed(call: Callable[[int], Any], repeats: int) -> tuple[Timing, Any]:
  """Waits for `call(0)`, `call(1)`, …; returns the last one's result too."""
  seconds, result = [], None
  for n in range(repeats + 1):
    result = None  # its memory is needed again
    started = time.perf_counter()
    result = jax.block_until_ready(call(n))
    seconds.append(time.perf_counter() - started)
  return Timing(seconds[0], seconds[1:]), result


def products(
  rows: int,
  width: int,
  inner: int,
  scale: Scale,
  device: Any,
  columns: bool = False,
) -> float:
  """FLOPs a second of `(x · A) · B`, x `[rows, width]`, A `[width, inner]`.

  Or the same with every array transposed, where the `rows` are columns.

  The numbers are random and keep their size along the chain: a chip that
  multiplies zeros stays cooler and runs faster.
  """

  @jax.jit
  def chain(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    def turn(_: Any, x: jax.Array) -> jax.Array:
      return b @ (a @ x) if columns else (x @ a) @ b

    return jax.lax.fori_loop(0, scale.chain, turn, x)

  shapes = (rows, width), (width, inner), (inner, width)
  key = jax.device_put(jax.random.key(0), device)
  arrays = [
    (jax.random.normal(key, shape) / shape[0] ** 0.5).astype(scale.dtype)
    for key, shape in zip(jax.random.split(key, 3), shapes, strict=True)
  ]
  if columns:
    arrays = [array.T for array in arrays]
  timing, _ = timed(lambda _: chain(*arrays), scale.repeats)
  return 4.0 * rows * width * inner * scale.chain / timing.median


def traffic(scale: Scale, device: Any) -> dict[str, float]:
  """Bytes a second that are read in a sum, and read and written in a copy."""
  words = scale.traffic // 4

  @jax.jit
  def read(x_N: jax.Array) -> jax.Array:
    # a sum that changes with its turn, or XLA would take it out of the loop
    return jax.lax.fori_loop(
      0, scale.chain, lambda i, total: total + (x_N ^ i).sum(), jnp.int32(0)
    )

  @jax.jit
  def copy(x_N: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, scale.chain, lambda i, x: x ^ i, x_N)

  x_N = jax.device_put(jnp.arange(words, dtype=jnp.int32), device)
  reading, _ = timed(lambda _: read(x_N), scale.repeats)
  copying, _ = timed(lambda _: copy(x_N), scale.repeats)
  moved = 4.0 * words * scale.chain
  return {'read': moved / reading.median, 'copy': 2 * moved / copying.median}


def measure(
  mlps: dict[str, tuple[int, int, int]], scale: Scale, device: Any
) -> dict[str, Any]:
  """All ceilings.

  Args:
    mlps: for each model the rows, the width and the inner width of its MLP's
      products in an update.
    scale: of the measurements.
    device: that is measured.

  Returns:
    FLOPs a second of a large square product and of each model's, bytes a
    second of each kind of traffic; and the best of each.
  """
  side = scale.square
  shapes = {'square': (side, side, side), **mlps}
  rates = {
    name: products(*shape, scale, device) for name, shape in shapes.items()
  }
  moved = traffic(scale, device)
  return {
    'dtype': scale.dtype,
    'products': {
      name: {'shape': shapes[name], 'flops_per_second': rate}
      for name, rate in rates.items()
    },
    'flops_per_second': max(rates.values()),
    'traffic': moved,
    'bytes_per_second': max(moved.values()),
  }
