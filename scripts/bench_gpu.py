"""Checks a GRPO step on a GPU against the CPU, and measures its speed.

  python scripts/bench_gpu.py --out=runs/bench_gpu

Calls the functions that training calls, on random weights: nothing is
downloaded or read from disk.

  1. parity    one small model on CPU and GPU; cuDNN's attention (`gpu_parity`)
  2. ceilings  measured FLOP/s and bytes/s of the device (`gpu_ceilings`)
  3. models    rollout, reference and update, as shares of those ceilings

`bench_gpu.json` is rewritten after every part, so that an interrupted run keeps
its measurements; a part that fails or runs out of memory leaves its error
there.  Exit status: 0 if the parity check passes, 1 if it fails or could not
run, 2 if there is no GPU.  `--device=cpu --models=tiny` runs the same code
without a GPU.
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

# JAX reads this when it initialises the GPU, and preallocates 75% by default.
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
from rlcw.rewards import reward_model, rollout_scores
from rlcw.runtime import console, files, metrics
from rlcw.runtime.mesh import over_groups
from rlcw.sampling.rollout import Rollout, sample
from rlcw.sampling.samplers import Temperature
from rlcw.tasks.grpo import objective
from rlcw.tasks.plan import roofline

REPEATS = 3  # timed calls of each phase, after the one that compiles


# --- The phases of a step ---------------------------------------------------


def phase_metrics(
  run: Run, timing: Timing, flops: float, best: dict
) -> dict[str, Any]:
  """A phase's times, and its FLOP/s as a share of the ceiling (MFU)."""
  rate = flops / timing.median
  return {
    'seconds': timing.median,
    'seconds_each': timing.rest,
    'seconds_first': timing.first,
    'flops': flops,
    'flops_per_second': rate,
    'mfu': rate / best['flops_per_second'],
  }


def make_weights(run: Run) -> tuple[Any, Any, Any]:
  """Random trainable parameters, frozen parameters and reference."""
  base = lora.without(run.config)
  # Trained weights are float32 masters; the frozen base of adapters is not.
  dtype = 'float32' if run.config.lora is None else base.dtype

  def make(key: jax.Array) -> Any:
    return decoder.as_dtype(nn.unbox(init_params(base, key)), dtype)

  # Under jit with output shardings no unsharded copy is ever materialised.
  shardings = param_shardings(base, run.mesh)
  params = jax.jit(make, out_shardings=shardings)(jax.random.key(0))
  learned, frozen = lora.split(run.config, params, run.mesh, run.settings.seed)
  return learned, frozen, decoder.as_dtype(params, base.dtype)


def make_briefs(run: Run) -> tuple[jax.Array, jax.Array]:
  """Random briefs of full length: tokens `[P, L]` and lengths `[P]`."""
  prompts, _, width, _ = run.case.shapes
  random = np.random.default_rng(0)
  size = (prompts, width)
  arrays = (
    random.integers(0, run.config.vocab_size, size, np.int32),
    np.full(prompts, width, np.int32),
  )
  return jax.device_put(arrays, over_groups(run.mesh))


def roll_out(
  run: Run, params: Any, briefs: Any, best: dict
) -> tuple[Rollout, dict[str, Any]]:
  """Samples replies of full length and measures prefill and decoding.

  Prefill is timed alone; decoding is the rest of the rollout's time.

  Args:
    run: the model and the shapes of its step.
    params: of the policy.
    briefs: tokens `[P, L]` and lengths `[P]`.
    best: measured ceilings.
  """
  config, shapes = run.config, run.case.shapes
  numbers = jax.device_put(np.arange(shapes.prompts), briefs[1].sharding)
  jitted = jax.jit(functools.partial(decoder.prefill, config))

  def prefill(_: int) -> Any:
    return jitted(decoder.as_dtype(params, config.dtype), *briefs)

  def call(n: int) -> Rollout:
    return sample(
      params,
      *briefs,
      numbers,
      Temperature(run.settings.temperature),
      run.settings.seed,
      n,
      config=config,
      group_size=shapes.group,
      max_new_tokens=shapes.reply_tokens,
      # no token has this id, so no reply ends before its budget
      eos=(config.vocab_size,),
    )

  prefilling, _ = timed(prefill, REPEATS)
  timing, rollout = timed(call, REPEATS)
  tokens = int(rollout.length.sum())
  # Decoding is memory-bound, so compare it with bandwidth and not with FLOP/s.
  decoding = timing.median - prefilling.median
  least, bandwidth = (
    gpu_cases.decoding_bytes(config, shapes),
    best['bytes_per_second'],
  )
  flops = gpu_cases.pass_flops(config, shapes)
  return rollout, phase_metrics(run, timing, flops, best) | {
    'tokens': tokens,
    'tokens_per_second': tokens / timing.median,
    'seconds_prefill': prefilling.median,
    'seconds_decoding': decoding,
    'decoding_bytes': least,
    'bytes_per_second': least / decoding,
    'share_of_bandwidth': least / decoding / bandwidth,
  }


def learn(
  run: Run, learned: Any, frozen: Any, arrays: Any, best: dict
) -> dict[str, Any]:
  """Measures the update, each call continuing from the previous state."""
  optimizer = objective.make_optimizer(run.settings)
  state = train.init_state(learned, optimizer, run.mesh)
  loss = objective.make_loss(run.config, run.settings)
  update = train.make_update(loss, optimizer, state, run.microbatches)
  rollout = arrays['rollout']
  batch = objective.pack(
    arrays,
    (np.asarray(arrays['length']), np.asarray(rollout.length)),
    run.settings,
    over_groups(run.mesh),
  )

  def call(_: int) -> Any:
    # The update donates the state's buffers: the old one is not usable again.
    nonlocal state
    state, stats = update(state, batch.parts, frozen, batch.divisor)
    return state, stats

  timing, (_, stats) = timed(call, REPEATS)
  # MFU counts each product once, although the backward pass recomputes some.
  flops, once = gpu_cases.update_flops(run)
  prompts, group, width, reply = run.case.shapes
  tokens = prompts * (width + group * reply)
  return phase_metrics(run, timing, once, best) | {
    'tokens': tokens,
    'tokens_per_second': tokens / timing.median,
    'flops_with_recomputation': flops,
    'share_with_recomputation': flops
    / timing.median
    / best['flops_per_second'],
    'metrics': {k: float(stats[k]) for k in ('loss', 'grad_norm', 'bad_steps')},
  }


def speed(run: Run, best: dict, keep: Callable[..., None]) -> None:
  """Measures all phases of one model's step.

  Args:
    run: the model and the shapes of its step.
    best: measured ceilings.
    keep: writes its keyword arguments to disk; called after every phase.
  """
  shapes = run.case.shapes
  keep(
    train=run.case.train,
    weights=roofline.all_weights(run.config),
    shapes=shapes._asdict() | {'groups_at_a_time': run.case.microbatch_groups},
  )
  with jax.set_mesh(run.mesh):
    learned, frozen, reference = make_weights(run)
    briefs = make_briefs(run)
    policy = lora.join(learned, frozen)
    rollout, rollout_metrics = roll_out(run, policy, briefs, best)
    keep(rollout=rollout_metrics)
    # A zero reward head: its cost is measured, its scores are not used.
    head = reward_model.Head(
      np.zeros(run.config.model_dim, np.float32), np.zeros(())
    )

    def score(_: int) -> Any:
      return rollout_scores.score_and_reference(
        reference,
        head,
        *briefs,
        rollout,
        run.settings.temperature,
        rollout.mask,
        config=lora.without(run.config),
      )

    timing, (_, ref_logp) = timed(score, REPEATS)
    flops = gpu_cases.pass_flops(run.config, shapes)
    # The policy still equals the reference, so log-probabilities should agree
    # between decoding (plain XLA operations) and a full pass (GPU kernels).
    difference = float(jnp.abs(rollout.logp - ref_logp).mean())
    reference_metrics = phase_metrics(run, timing, flops, best)
    keep(reference=reference_metrics, decoding_against_pass=difference)
    size = shapes.prompts, shapes.group
    sharding = over_groups(run.mesh)
    advantage = np.random.default_rng(1).normal(size=size).astype(np.float32)
    arrays = dict(prompt=briefs[0], length=briefs[1], rollout=rollout)
    arrays |= {'ref_logp': ref_logp} | jax.device_put(
      {'valid': np.ones(size, bool), 'advantage': advantage}, sharding
    )
    # The update donates its weights; keep no second reference to them.
    del policy
    keep(update=learn(run, learned, frozen, arrays, best))


# --- Report and command -----------------------------------------------------


class Report:
  """Results so far, written to `bench_gpu.json` after every part.

  Args:
    out: folder, created if missing.
    seconds: time budget of the run, recorded in the file.
  """

  def __init__(self, out: Path, seconds: float):
    out.mkdir(parents=True, exist_ok=True)
    self.file, self.started = out / 'bench_gpu.json', time.perf_counter()
    self.results: dict[str, Any] = {'budget_seconds': seconds, 'models': {}}

  def write(self) -> None:
    self.results['seconds'] = time.perf_counter() - self.started
    files.write_json(self.file, self.results)

  def part(
    self, into: dict, name: str, make: Callable[[Callable[..., None]], None]
  ) -> None:
    """Runs one part.

    Args:
      into: dictionary that gets the part's results.
      name: their key in it.
      make: called with `keep`, which records its keyword arguments.  An
        exception is recorded as `error`, beside the results kept before it.
    """
    console.log(f'{time.perf_counter() - self.started:5.0f} s  {name}')
    results = into[name] = {}

    def keep(**values: Any) -> None:
      results.update(values)
      self.write()

    try:
      make(keep)
    # Typically out of memory; a smaller model may still fit.
    except Exception as error:
      traceback.print_exc()
      keep(error=f'{type(error).__name__}: {error}'[:2000])
    # Frees the arrays of a failed part, which its traceback may refer to.
    gc.collect()


def parity(device: Any, keep: Callable[..., None]) -> None:
  """Runs all comparisons with the CPU and records those that fail."""
  host = jax.devices('cpu')[0]
  run = gpu_cases.prepare('small', gpu_cases.SMALL, 'float32', host)
  errors = gpu_parity.model_errors(run, device)
  keep(limits=gpu_parity.LIMITS, **errors)
  errors['attention'] = gpu_parity.attention_errors(device, host)
  failed = gpu_parity.failures(errors)
  keep(attention=errors['attention'], failures=failed, passed=not failed)


def print_summary(results: dict[str, Any]) -> None:
  """Prints parity, ceilings and a line per model and phase."""
  checked, best = results.get('parity', {}), results.get('ceilings', {})
  print('\nparity', 'passed' if checked.get('passed') else checked)
  if 'products' in best:
    print(
      f'ceilings: {best["flops_per_second"] / 1e12:.4g} TFLOP/s in '
      f'{best["dtype"]}, {best["bytes_per_second"] / 1e9:.4g} GB/s'
    )
  for name, case in results['models'].items():
    if 'error' in case:
      print(f'{name}: {case["error"][:200]}')
    for phase in ('rollout', 'reference', 'update'):
      if phase not in case:
        continue
      row = case[phase]
      rate = row.get('tokens_per_second')
      bandwidth = row.get('share_of_bandwidth')
      print(
        f'{name:<14} {phase:<10} {row["seconds"]:8.3f} s  MFU {row["mfu"]:6.1%}'
        + (f'  {rate:,.0f} tokens/s' if rate else '')
        + (f'  decoding at {bandwidth:.1%} of bandwidth' if bandwidth else '')
      )


def stop_at(report: Report, seconds: float) -> threading.Timer:
  """Starts a timer that ends the process after `seconds`.

  It runs in a separate thread, so it works even while XLA compiles.
  """

  def stop() -> None:
    try:
      report.results['stopped'] = f'after {seconds:g} s'
      report.write()
      print_summary(report.results)
      print(f'stopped after {seconds:g} s; results so far: {report.file}')
      sys.stdout.flush()
    finally:
      # sys.exit would end this thread only, and wait for the compilation.
      os._exit(exit_status(report.results))

  timer = threading.Timer(seconds, stop)
  timer.daemon = True
  timer.start()
  return timer


def exit_status(results: dict[str, Any]) -> int:
  """Returns 0 if the parity check passed, 1 if it failed or did not run."""
  return 0 if results.get('parity', {}).get('passed') else 1


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
    parser.error(
      f'--models={flags.models}: unknown {sorted(unknown)}; expected some of '
      f'{[*CASES]}'
    )
  if flags.device == 'gpu':
    # Both platforms: parity compares the GPU with the CPU.
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
  print_summary(report.results)
  return exit_status(report.results)


def measure(report: Report, names: list[str], device: Any) -> None:
  """Runs all parts in order: parity, ceilings, then every model."""
  scale, results = gpu_ceilings.SCALES[device.platform], report.results
  runs = [
    gpu_cases.prepare(name, CASES[name], scale.dtype, device) for name in names
  ]
  # The ceilings include each model's MLP product at the size of a microbatch.
  mlps = {}
  for run in runs:
    prompts, group, _, reply = run.case.shapes
    rows = prompts * group * reply // run.microbatches
    mlps[run.name] = rows, run.config.model_dim, run.config.mlp_dim
  results['hardware'] = metrics.hardware()
  report.part(results, 'parity', functools.partial(parity, device))
  report.part(
    results,
    'ceilings',
    lambda keep: keep(**gpu_ceilings.measure(mlps, scale, device)),
  )
  best = results['ceilings']
  # Without ceilings there is nothing to take shares of.
  for run in () if 'error' in best else runs:
    measure_speed = functools.partial(speed, run, best)
    report.part(results['models'], run.name, measure_speed)
    # The peak is of the process so far, hence the larger models last.
    results['models'][run.name] |= metrics.peak_device_memory()
  report.write()


if __name__ == '__main__':
  sys.exit(main())
