"""Measured ceilings of a device: FLOP/s and bytes/s of simple XLA programs."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlcw.tasks.plan.roofline import GIB


class Scale(NamedTuple):
  """Sizes of the measurements, such that a platform needs only seconds."""

  dtype: str  # of the models' activations and of the matrix products
  square: int  # side of the largest matrix product
  chain: int  # repetitions of the measured operation within one call
  traffic: int  # bytes of the array that is read and copied
  repeats: int = 5


SCALES = {
  'gpu': Scale('bfloat16', 8192, 32, 4 * GIB),
  'cpu': Scale('float32', 512, 4, 2**26),
}


class Timing(NamedTuple):
  """Seconds of the first call, which compiles, and of each later call."""

  first: float
  rest: list[float]

  @property
  def median(self) -> float:
    return statistics.median(self.rest)


def timed(call: Callable[[int], Any], repeats: int) -> tuple[Timing, Any]:
  """Times `call(0)` (with compilation) and `call(1)` to `call(repeats)`.

  Returns:
    The seconds of every call, and the result of the last one.
  """
  seconds, result = [], None
  for n in range(repeats + 1):
    # Free the last result before the next call needs the memory.
    result = None
    started = time.perf_counter()
    # JAX dispatches asynchronously: without blocking, only the dispatch counts.
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
  """FLOP/s of `(x · A) · B`, x `[rows, width]`, A `[width, inner]`.

  Args:
    rows: tokens.
    width: model dimension, also the output dimension of B.
    inner: dimension between the two products.
    scale: dtype, and repetitions within and across calls.
    device: device to measure.
    columns: transposes every array, so that tokens are columns.
  """

  @jax.jit
  def chain(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    def body(_: Any, x: jax.Array) -> jax.Array:
      return b @ (a @ x) if columns else (x @ a) @ b

    # The products depend on each other, so XLA can neither drop nor merge them.
    return jax.lax.fori_loop(0, scale.chain, body, x)

  # Random numbers whose magnitude stays constant along the chain: a chip that
  # multiplies zeros or saturated numbers stays cooler and runs faster.
  shapes = (rows, width), (width, inner), (inner, width)
  key = jax.device_put(jax.random.key(0), device)
  arrays = [
    (jax.random.normal(key, shape) / shape[0] ** 0.5).astype(scale.dtype)
    for key, shape in zip(jax.random.split(key, 3), shapes, strict=True)
  ]
  if columns:
    arrays = [array.T for array in arrays]
  timing, _ = timed(lambda _: chain(*arrays), scale.repeats)
  # Two products of 2 · rows · width · inner FLOPs each.
  return 4.0 * rows * width * inner * scale.chain / timing.median


def traffic(scale: Scale, device: Any) -> dict[str, float]:
  """Bytes/s of memory: `read` by a sum, `copy` by a read and a write."""
  words = scale.traffic // 4

  @jax.jit
  def read(x_N: jax.Array) -> jax.Array:
    # The summand depends on i; otherwise XLA hoists the sum out of the loop.
    return jax.lax.fori_loop(
      0, scale.chain, lambda i, total: total + (x_N ^ i).sum(), jnp.int32(0)
    )

  @jax.jit
  def copy(x_N: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, scale.chain, lambda i, x: x ^ i, x_N)

  x_N = jax.device_put(jnp.arange(words, dtype=jnp.int32), device)
  reading, _ = timed(lambda _: read(x_N), scale.repeats)
  copying, _ = timed(lambda _: copy(x_N), scale.repeats)
  size = 4.0 * words * scale.chain
  # A copy moves every byte twice: one read and one write.
  return {'read': size / reading.median, 'copy': 2 * size / copying.median}


def measure(
  mlps: dict[str, tuple[int, int, int]], scale: Scale, device: Any
) -> dict[str, Any]:
  """Measures all ceilings of a device.

  Args:
    mlps: (rows, width, inner width) of the MLP products in an update, by model.
    scale: sizes of the measurements.
    device: device to measure.

  Returns:
    FLOP/s of a large square product and of each model's MLP, bytes/s of each
    kind of traffic, and the best of each.
  """
  side = scale.square
  shapes = {'square': (side, side, side), **mlps}
  rates = {
    name: products(*shape, scale, device) for name, shape in shapes.items()
  }
  bandwidth = traffic(scale, device)
  # The ceiling is the best over all shapes: the square product is not always
  # the fastest, and shares of the ceiling should stay below 1.
  return {
    'dtype': scale.dtype,
    'products': {
      name: {'shape': shapes[name], 'flops_per_second': rate}
      for name, rate in rates.items()
    },
    'flops_per_second': max(rates.values()),
    'traffic': bandwidth,
    'bytes_per_second': max(bandwidth.values()),
  }
