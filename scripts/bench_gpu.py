"""Is a GRPO step right on a GPU, and how near does it come to its best?

  python scripts/bench_gpu.py --out=runs/bench_gpu

Calls what training calls, on random weights: nothing is fetched or read.

  1. parity    one small model on CPU and GPU; cuDNN's attention (`gpu_parity`)
  2. ceilings  of products and memory traffic, here and now (`gpu_ceilings`)
  3. models    rollout, reference and update, as shares of those ceilings

`bench_gpu.json` is written anew after every part, so a run that is stopped
keeps what it measured; what fails, or does not fit, is told in its place.
Exits with 0 if parity holds, 1 if it does not or could not be computed, 2 if
there is no GPU.  `--device=cpu --models=tiny` runs the same code without one.
"""

import argparse
import functools
import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# read when JAX first meets a GPU; by itself it takes 75% of the memory
os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.92')

import flax.linen as nn
import gpu_cases
import gpu_ceilings
import gpu_parity
import jax
import jax.numpy as jnp
import numpy as np
from gpu_cases import CASES, Run
from gpu_ceilings import Timing, timed

from rlcw import train
from rlcw.models import decoder, lora
from rlcw.models.weights import init_params, param_shardings
from rlcw.rewards import reward_model
from rlcw.runtime import files, metrics
from rlcw.runtime.mesh import over_groups
from rlcw.sampling.rollout import Rollout, Temperature, sample
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan import roofline
from rlcw.tasks.plan.roofline import GIB

REPEATS = 3  # of each phase, after the call that compiles it


# --- The phases of a step ---------------------------------------------------


def share(run: Run, timing: Timing, flops: float, best: dict) -> dict[str, Any]:
  """A phase's time, and its FLOPs as a share of the best product's."""
  rate = flops / timing.median
  return {
    'seconds': timing.median,
    'seconds_each': timing.rest,
    'seconds_first': timing.first,
    'flops': flops,
    'flops_per_second': rate,
    'mfu': rate / best['flops_per_second'],
  }


def weights(run: Run) -> tuple[Any, Any, Any]:
  """Random ones: what learns, what is frozen beside it, the reference."""
  base = lora.without(run.config)
  kept = 'float32' if run.config.lora is None else base.dtype

  def make(key: jax.Array) -> Any:
    return decoder.as_dtype(nn.unbox(init_params(base, key)), kept)

  places = param_shardings(base, run.mesh)
  params = jax.jit(make, out_shardings=places)(jax.random.key(0))
  learned, frozen = lora.split(run.config, params, run.mesh, run.settings.seed)
  return learned, frozen, decoder.as_dtype(params, base.dtype)


def briefs(run: Run) -> tuple[jax.Array, jax.Array]:
  """Random briefs of full length."""
  prompts, _, width, _ = run.case.shapes
  random = np.random.default_rng(0)
  size = (prompts, width)
  arrays = (
    random.integers(0, run.config.vocab_size, size, np.int32),
    np.full(prompts, width, np.int32),
  )
  return jax.device_put(arrays, over_groups(run.mesh))


def roll_out(
  run: Run, params: Any, read: Any, best: dict
) -> tuple[Rollout, dict[str, Any]]:
  """Samples; no token ends a reply, so that each takes all of its budget.

  Reading the briefs is timed by itself, and what is left is decoding.
  """
  config, shapes = run.config, run.case.shapes
  numbers = jax.device_put(np.arange(shapes.prompts), read[1].sharding)
  reading = jax.jit(functools.partial(decoder.prefill, config))

  def prefill(_: int) -> Any:
    return reading(decoder.as_dtype(params, config.dtype), *read)

  def call(n: int) -> Rollout:
    return sample(
      params,
      *read,
      numbers,
      Temperature(run.settings.temperature),
      run.settings.seed,
      n,
      config=config,
      group_size=shapes.group,
      max_new_tokens=shapes.reply_tokens,
      eos=(config.vocab_size,),
    )

  before, _ = timed(prefill, REPEATS)
  timing, rollout = timed(call, REPEATS)
  tokens = int(rollout.length.sum())
  decoding = timing.median - before.median
  least, reached = (
    gpu_cases.decoding_bytes(config, shapes),
    best['bytes_per_second'],
  )
  work = roofline.rollout(config, shapes)
  return rollout, share(run, timing, work.flops, best) | {
    'tokens': tokens,
    'tokens_per_second': tokens / timing.median,
    'seconds_prefill': before.median,
    'seconds_decoding': decoding,
    'decoding_bytes': least,
    'bytes_per_second': least / decoding,
    'share_of_bandwidth': least / decoding / reached,
  }


def learn(
  run: Run, learned: Any, frozen: Any, arrays: Any, best: dict
) -> dict[str, Any]:
  """Updates, each from the state that the last one left."""
  optimizer = objective.make_optimizer(run.settings)
  state = train.init_state(learned, optimizer, run.mesh)
  loss = objective.make_loss(run.config, run.settings)
  update = train.make_update(loss, optimizer, state, run.microbatches)

  def call(_: int) -> Any:
    nonlocal state
    state, told = update(state, arrays, frozen)
    return state, told

  timing, (_, told) = timed(call, REPEATS)
  flops, once = gpu_cases.update_flops(run)
  prompts, group, width, reply = run.case.shapes
  tokens = prompts * (width + group * reply)
  return share(run, timing, once, best) | {
    'tokens': tokens,
    'tokens_per_second': tokens / timing.median,
    'flops_with_recomputation': flops,
    'share_with_recomputation': flops
    / timing.median
    / best['flops_per_second'],
    'told': {k: float(told[k]) for k in ('loss', 'grad_norm', 'bad_steps')},
  }


def speed(run: Run, best: dict, keep: Callable[..., None]) -> None:
  """All phases of one model's step, each kept as soon as it is measured."""
  shapes = run.case.shapes
  keep(
    train=run.case.train,
    weights=roofline.all_weights(run.config),
    shapes=shapes._asdict() | {'groups_at_a_time': run.case.microbatch_groups},
  )
  with jax.set_mesh(run.mesh):
    learned, frozen, reference = weights(run)
    read = briefs(run)
    policy = lora.join(learned, frozen)
    rollout, rolled = roll_out(run, policy, read, best)
    keep(rollout=rolled)
    head = reward_model.Head(
      np.zeros(run.config.model_dim, np.float32), np.zeros(())
    )

    def score(_: int) -> Any:
      return reward_model.score_and_reference(
        reference,
        head,
        *read,
        rollout,
        run.settings.temperature,
        config=lora.without(run.config),
        pooling='mean',
      )

    timing, (_, ref_logp) = timed(score, REPEATS)
    flops = roofline.score(run.config, shapes, head=True).flops
    # decoding runs on plain operations, a pass on the platform's kernel
    apart = float(jnp.abs(rollout.logp - ref_logp).mean())
    told = share(run, timing, flops, best)
    keep(reference=told, decoding_against_pass=apart)
    size = shapes.prompts, shapes.group
    split = over_groups(run.mesh)
    advantage = np.random.default_rng(1).normal(size=size).astype(np.float32)
    arrays = dict(prompt=read[0], length=read[1], rollout=rollout)
    arrays |= {'ref_logp': ref_logp} | jax.device_put(
      {'valid': np.ones(size, bool), 'advantage': advantage}, split
    )
    del policy
    keep(update=learn(run, learned, frozen, arrays, best))


# --- The whole --------------------------------------------------------------


class Report:
  """What is known so far, on disk after every part."""

  def __init__(self, out: Path, seconds: float):
    out.mkdir(parents=True, exist_ok=True)
    self.file, self.started = out / 'bench_gpu.json', time.perf_counter()
    self.found: dict[str, Any] = {'budget_seconds': seconds, 'models': {}}

  def write(self) -> None:
    self.found['seconds'] = time.perf_counter() - self.started
    files.write_json(self.file, self.found)

  def part(
    self, into: dict, name: str, make: Callable[[Callable[..., None]], None]
  ) -> None:
    """Runs `make(keep)`; what stops it is kept beside what it has kept."""
    metrics.log(f'{time.perf_counter() - self.started:5.0f} s  {name}')
    kept = into[name] = {}

    def keep(**found: Any) -> None:
      kept.update(found)
      self.write()

    try:
      make(keep)
    except Exception as error:  # the next part may still fit
      traceback.print_exc()
      keep(error=f'{type(error).__name__}: {error}'[:2000])
    gc.collect()  # a failed part's arrays


def parity(device: Any, keep: Callable[..., None]) -> None:
  """All comparisons, and which of them fail."""
  host = jax.devices('cpu')[0]
  run = gpu_cases.prepare('small', gpu_cases.SMALL, 'float32', host)
  found = gpu_parity.of_model(run, device)
  keep(limits=gpu_parity.LIMITS, **found)
  found['attention'] = gpu_parity.of_attention(device, host)
  failed = gpu_parity.failures(found)
  keep(attention=found['attention'], failures=failed, passed=not failed)


def tell(found: dict[str, Any]) -> None:
  """A few lines in the terminal."""
  checked, best = found.get('parity', {}), found.get('ceilings', {})
  print('\nparity', 'holds' if checked.get('passed') else checked)
  if 'products' in best:
    print(
      f'ceilings: {best["flops_per_second"] / 1e12:.4g} TFLOP/s in '
      f'{best["dtype"]}, {best["bytes_per_second"] / 1e9:.4g} GB/s'
    )
  for name, case in found['models'].items():
    if 'error' in case:
      print(f'{name}: {case["error"][:200]}')
    for phase in ('rollout', 'reference', 'update'):
      if phase not in case:
        continue
      of = case[phase]
      rate = of.get('tokens_per_second')
      moved = of.get('share_of_bandwidth')
      print(
        f'{name:<14} {phase:<10} {of["seconds"]:8.3f} s  MFU {of["mfu"]:6.1%}'
        + (f'  {rate:,.0f} tokens/s' if rate else '')
        + (f'  {moved:.1%} of the bandwidth in decoding' if moved else '')
      )


def stop_at(report: Report, seconds: float) -> threading.Timer:
  """Ends the process when its time is over, even while XLA compiles."""

  def stop() -> None:
    try:
      report.found['stopped'] = f'after {seconds:g} s'
      report.write()
      tell(report.found)
      print(f'stopped after {seconds:g} s; what is known is in {report.file}')
      sys.stdout.flush()
    finally:
      os._exit(verdict(report.found))

  timer = threading.Timer(seconds, stop)
  timer.daemon = True
  timer.start()
  return timer


def verdict(found: dict[str, Any]) -> int:
  """The exit status."""
  return 0 if found.get('parity', {}).get('passed') else 1


def main(arguments: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  large = [name for name in CASES if name != 'tiny']
  parser.add_argument('--out', type=Path, default=Path('runs/bench_gpu'))
  parser.add_argument('--device', choices=('gpu', 'cpu'), default='gpu')
  parser.add_argument('--models', default=','.join(large))
  parser.add_argument('--seconds', type=float, default=460)
  flags = parser.parse_args(arguments)
  names = flags.models.split(',')
  if unknown := set(names) - set(CASES):
    parser.error(f'--models: {sorted(unknown)} unknown; legal: {[*CASES]}')
  if flags.device == 'gpu':
    # parity needs the CPU beside it
    jax.config.update('jax_platforms', 'cuda,cpu')
  try:
    device = jax.devices(flags.device)[0]
  except RuntimeError as error:
    print(f'no {flags.device}, so nothing was measured: {error}')
    return 2
  report = Report(flags.out, flags.seconds)
  timer = stop_at(report, flags.seconds)
  try:
    measure(report, names, device)
  finally:
    timer.cancel()
  tell(report.found)
  return verdict(report.found)


def measure(report: Report, names: list[str], device: Any) -> None:
  """All parts, one after the other."""
  scale, found = gpu_ceilings.SCALES[device.platform], report.found
  runs = [
    gpu_cases.prepare(name, CASES[name], scale.dtype, device) for name in names
  ]
  mlps = {}
  for run in runs:
    prompts, group, _, reply = run.case.shapes
    rows = prompts * group * reply // run.microbatches
    mlps[run.name] = rows, run.config.model_dim, run.config.mlp_dim
  found['hardware'] = metrics.hardware()
  report.part(found, 'parity', functools.partial(parity, device))
  report.part(
    found,
    'ceilings',
    lambda keep: keep(**gpu_ceilings.measure(mlps, scale, device)),
  )
  best = found['ceilings']
  for run in () if 'error' in best else runs:
    report.part(found['models'], run.name, functools.partial(speed, run, best))
    found['models'][run.name] |= memory(device)
  report.write()


def memory(device: Any) -> dict[str, float]:
  """The most that the device has held up to here, where it tells."""
  told = device.memory_stats() or {}
  peak = told.get('peak_bytes_in_use')
  return {} if peak is None else {'peak_memory_gib': peak / GIB}


if __name__ == '__main__':
  sys.exit(main())
