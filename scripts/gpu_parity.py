"""Compares a GPU with the CPU: one GRPO step, and cuDNN's attention.

The step runs a small model in float32 with matmul precision `highest`, and the
same weights, briefs and random keys on both.  cuDNN's attention in bfloat16 is
compared with the reference implementation in float32.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from gpu_cases import Run

from rlcw.losses import Ratio
from rlcw.models import attention_kernels, weights
from rlcw.models.attention_kernels import KV, Prefix
from rlcw.models.decoder import Params
from rlcw.rewards import rollout_scores
from rlcw.runtime.mesh import make_mesh, over_groups, replicated
from rlcw.sampling.rollout import Rollout, sample
from rlcw.sampling.samplers import Temperature
from rlcw.tasks.grpo import objective

# Float32 sums in another order differ by a few units in the sixth digit, and
# the difference grows through the layers.  A sampled token differs if its
# uniform draw falls that close to the boundary between two tokens.
LIMITS = {
  'logp': 1e-3,  # largest absolute difference over all tokens
  'loss': 1e-4,  # absolute difference
  'grad_norm': 1e-3,  # relative difference
  'gradient': 1e-3,  # norm of the difference relative to the gradient's norm
  'decoding': 1e-3,  # as logp, of decoding against a full pass on the device
  'replies_that_differ': 0.1,  # share of all replies
  'attention': 0.02,  # relative error, by norms
}


class Numbers(NamedTuple):
  """Results of a step on one platform, as host arrays."""

  rollout: Rollout
  logp: np.ndarray  # [P, G, T], of the replies trained on
  terms: dict[str, Ratio]  # the loss and its metrics
  gradient: Params  # of the loss's numerator


def step(
  run: Run,
  loss_gradient: Any,
  params: tuple[Params, Params],
  device: Any,
  replies: Rollout | None,
) -> Numbers:
  """Runs a training step on one device, up to the gradient.

  Args:
    run: the model and the shapes of the step.
    loss_gradient: jitted (params, arrays) -> (gradient, terms of the loss).
    params: parameters of policy and reference, on the host.
    device: device to compute on.
    replies: replies to train on, on the host; None: those sampled here.
  """
  mesh = make_mesh(devices=[device])
  split = over_groups(mesh)
  prompts, group, width, reply = run.case.shapes
  random, config = np.random.default_rng(0), run.config
  size, vocab = (prompts, width), config.vocab_size
  prompt_PxL = random.integers(0, vocab, size, np.int32)
  length_P = random.integers(1, width + 1, prompts, np.int32)
  advantage_PxG = random.normal(size=(prompts, group)).astype(np.float32)
  # By default, GPUs multiply float32 matrices in TensorFloat-32.
  with jax.set_mesh(mesh), jax.default_matmul_precision('highest'):
    policy, reference = jax.device_put(params, replicated(mesh))
    briefs = jax.device_put((prompt_PxL, length_P), split)
    rollout = sample(
      policy,
      *briefs,
      jax.device_put(np.arange(prompts), split),
      Temperature(run.settings.temperature),
      run.settings.seed,
      0,
      config=config,
      group_size=group,
      max_new_tokens=reply,
      eos=(0,),
    )
    # Both platforms train on the same replies: after the first token that
    # differs, nothing else of a reply would be comparable.
    learned = jax.device_put(rollout if replies is None else replies, split)
    _, (logp, ref_logp) = zip(
      *(
        rollout_scores.score_and_reference(
          model,
          None,
          *briefs,
          learned,
          run.settings.temperature,
          config=config,
        )
        for model in (policy, reference)
      ),
      strict=True,
    )
    arrays = {'prompt': briefs[0], 'length': briefs[1], 'rollout': learned}
    arrays |= {'ref_logp': ref_logp} | jax.device_put(
      {'valid': np.ones((prompts, group), bool), 'advantage': advantage_PxG},
      split,
    )
    part = objective.Part(arrays | {'live': np.ones(prompts, bool)})
    gradient, terms = loss_gradient(policy, part)
    return Numbers(*jax.device_get((rollout, logp, terms, gradient)))


def first_differences(a: np.ndarray, b: np.ndarray) -> list[int]:
  """First unequal position of each pair of replies `[P, G, T]` that differ."""
  differs_NxT = (a != b).reshape(-1, a.shape[-1])
  return [int(row.argmax()) for row in differs_NxT if row.any()]


def compare(host: Numbers, ours: Numbers) -> dict[str, Any]:
  """Differences between the CPU and a device that trained on its replies.

  Returns:
    The values that `LIMITS` bounds, except `attention`; also the position of
    the first token that differs (None if none does) and the CPU's metrics.
  """
  a, b = host.rollout, ours.rollout
  positions = first_differences(a.token, b.token)
  # The device's log-probabilities from decoding can be compared with its full
  # pass only for replies that it sampled like the CPU.
  same_PxG = (a.token == b.token).all(-1)
  real_PxGxT = np.arange(a.token.shape[-1]) < a.length[..., None]
  decoding = np.where(same_PxG[..., None] & real_PxGxT, b.logp - ours.logp, 0.0)
  logp = np.where(real_PxGxT, host.logp - ours.logp, 0.0)
  flat = [
    np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(n.gradient)])
    for n in (ours, host)
  ]
  norms = [float(np.linalg.norm(gradient)) for gradient in flat]
  metrics = [
    {k: float(r.numerator / r.denominator) for k, r in n.terms.items()}
    for n in (ours, host)
  ]
  return {
    'logp': float(np.abs(logp).max()),
    'loss': abs(metrics[0]['loss'] - metrics[1]['loss']),
    'grad_norm': abs(norms[0] - norms[1]) / norms[1],
    'gradient': relative(*flat),
    'decoding': float(np.abs(decoding).max()),
    'replies_that_differ': len(positions) / a.length.size,
    'first_difference': min(positions, default=None),
    'cpu_values': metrics[1] | {'grad_norm': norms[1]},
  }


def model_errors(run: Run, device: Any) -> dict[str, Any]:
  """Runs a step on the run's device, a CPU, and on another, and compares them.

  Returns:
    As `compare`.
  """
  host = run.mesh.devices.flat[0]

  @functools.partial(jax.jit, out_shardings=replicated(run.mesh))
  def make(key: jax.Array) -> Params:
    params = nn.unbox(weights.init_params(run.config, key))
    # At their usual initial scale attention is almost uniform; scaled-up
    # weights make it depend on the keys.
    return jax.tree.map(lambda a: 3 * a if a.ndim > 1 else a, params)

  # The reference has other weights; otherwise the KL term would be 0.
  keys = jax.device_put(jax.random.split(jax.random.key(1)), host)
  with jax.set_mesh(run.mesh):
    params = jax.device_get((make(keys[0]), make(keys[1])))
  loss = objective.make_loss(run.config, run.settings)

  @functools.partial(jax.grad, has_aux=True)
  def gradient(params: Params, part: objective.Part) -> Any:
    terms = loss(params, {}, part)
    return terms['loss'].numerator, terms

  step_on = functools.partial(step, run, jax.jit(gradient), params)
  expected = step_on(host, None)
  return compare(expected, step_on(device, expected.rollout))


# --- Attention --------------------------------------------------------------


# Masks of attention: head dimension, and keyword arguments of the kernels.
FORMS = {
  'causal': (64, {}),
  'window': (64, {'window': 20}),
  'brief': (64, {}),
  'brief and window': (64, {'window': 20}),
  'packed': (64, {}),
  'causal, wide': (128, {}),
  'brief, wide': (128, {}),
}


def inputs(form: str, length: int = 65, brief: int = 33) -> tuple[Any, ...]:
  """Random arguments of attention for 2 prompts with 3 replies each.

  Args:
    form: one of `FORMS`.
    length: tokens of a reply.  Odd, because cuDNN needs padding then.
    brief: tokens of the longer brief, odd too.

  Returns:
    Queries, the replies' own keys and values, the brief's (or None), and
    segment ids `[2, 3, length]` of packed examples (or None).
  """
  random, head = np.random.default_rng(0), FORMS[form][0]

  def normal(*shape: int) -> np.ndarray:
    return random.normal(size=shape).astype(jnp.bfloat16)

  rows, prefix, segment_PxGxL = (2, 3, length), None, None
  q = normal(*rows, 2, 3, head) * jnp.bfloat16(head**-0.5)
  own = KV(normal(*rows, 2, head), normal(*rows, 2, head))
  if 'brief' in form:
    kv = KV(normal(2, brief, 2, head), normal(2, brief, 2, head))
    prefix = Prefix(kv, np.array([brief, brief // 2], np.int32))
  if form == 'packed':
    segment_PxGxL = np.broadcast_to(np.arange(length) * 3 // length, rows)
  return q, own, prefix, segment_PxGxL


def attention_errors(device: Any, host: Any) -> dict[str, float]:
  """Largest relative error of cuDNN's attention in bfloat16, by form.

  Outputs and gradients are compared with the reference implementation, which
  computes in float32 on the host from the same bfloat16 inputs.  On a device
  that is not a GPU the same function runs with XLA's implementation.
  """
  implementation = 'cudnn' if device.platform == 'gpu' else 'xla'
  fast = functools.partial(
    attention_kernels.cudnn, implementation=implementation
  )
  errors = {}
  for form, (_, kwargs) in FORMS.items():
    q, own, prefix, segment = inputs(form)
    ours = output_and_gradients(fast, device, q, own, prefix, segment, **kwargs)
    # Only the floating-point inputs; lengths stay integers.
    wide = jax.tree.map(
      lambda x: x.astype(np.float32) if x.dtype == jnp.bfloat16 else x,
      (q, own, prefix),
    )
    expected = output_and_gradients(
      attention_kernels.plain, host, *wide, segment, **kwargs
    )
    # np.max propagates NaN, so a NaN anywhere fails the form.
    relative_errors = jax.tree.map(relative, ours, expected)
    errors[form] = float(np.max(jax.tree.leaves(relative_errors)))
  return errors


def output_and_gradients(
  attend: Any,
  device: Any,
  q: Any,
  own: KV,
  prefix: Prefix | None,
  segment: Any,
  **kwargs: Any,
) -> Any:
  """Runs attention on a device.

  Args:
    attend: implementation of attention.
    device: device to compute on.
    q: queries.
    own: keys and values of the replies.
    prefix: keys and values of the briefs, and their lengths.
    segment: segment ids of packed examples.
    **kwargs: further arguments of `attend`.

  Returns:
    The output, and the gradients of queries, keys and values, on the host.
  """
  brief = None if prefix is None else prefix.kv
  length = None if prefix is None else prefix.length_P

  @jax.jit
  def run(arrays: Any, segment: Any, length: Any) -> Any:
    def weighted_sum(arrays: Any) -> tuple[jax.Array, jax.Array]:
      q, own, brief = arrays
      prefix = None if brief is None else Prefix(brief, length)
      out = attend(q, own, prefix, segment, **kwargs)
      # A different weight for every output: in a plain sum errors could cancel.
      weight = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
      return jnp.sum(out.astype(jnp.float32) * weight), out

    return jax.value_and_grad(weighted_sum, has_aux=True)(arrays)

  placed = jax.device_put(((q, own, brief), segment, length), device)
  (_, out), gradients = run(*placed)
  return jax.device_get((out, gradients))


def relative(ours: np.ndarray, reference: np.ndarray) -> float:
  """Norm of the error relative to the norm of the expected values."""
  # float64, so that summing the squares adds no error (also for bfloat16)
  expected = np.asarray(reference, np.float64)
  error = np.asarray(ours, np.float64) - expected
  return float(np.linalg.norm(error) / np.linalg.norm(expected))


def failures(errors: dict[str, Any]) -> list[str]:
  """Returns a line for every error above its limit; NaN is above any."""
  values = {name: errors[name] for name in LIMITS if name != 'attention'}
  values |= {f'attention: {k}': v for k, v in errors['attention'].items()}
  # `not value <= limit` is true for NaN; `value > limit` would not be.
  return [
    f'{name}: {value:.2e} is above {LIMITS[name.partition(":")[0]]:.0e}'
    for name, value in values.items()
    if not value <= LIMITS[name.partition(':')[0]]
  ]
