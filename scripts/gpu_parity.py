"""Does a GPU compute what a CPU does?

One small model in float32 at the highest precision of products, with the same
weights, briefs and random keys on both; and cuDNN's attention in bfloat16
against the reference in float32.
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
from rlcw.rewards import reward_model
from rlcw.runtime.mesh import make_mesh, over_groups, replicated
from rlcw.sampling.rollout import Rollout, Temperature, sample
from rlcw.tasks.grpo import objective

# Float32 sums in another order: a few units in the sixth digit, which grow
# through layers.  A token differs where a draw falls that near to a boundary.
LIMITS = {
  'logp': 1e-3,  # largest difference of a token's log-probability
  'loss': 1e-4,  # difference
  'grad_norm': 1e-3,  # relative difference
  'gradient': 1e-3,  # size of the difference as a share of its own
  'decoding': 1e-3,  # as logp, between decoding and a whole pass on the device
  'replies_that_differ': 0.1,  # share
  'attention': 0.02,  # relative error, root of mean squares
}


class Numbers(NamedTuple):
  """What a step computes on one platform, on the host."""

  rollout: Rollout
  logp: np.ndarray  # [P, G, T] of the tokens that are learned from
  terms: dict[str, Ratio]  # the loss, and what is told with it
  gradient: Params  # of the loss's numerator


def step(
  run: Run,
  learn: Any,
  params: tuple[Params, Params],
  device: Any,
  given: Rollout | None,
) -> Numbers:
  """A step on one device, up to its gradient.

  Args:
    run: the model and the step.
    learn: the jitted gradient of its loss.
    params: the policy's and the reference's, on the host.
    device: to compute on.
    given: replies to learn from, on the host; its own where there are none.
  """
  mesh = make_mesh(devices=[device])
  whole, split = replicated(mesh), over_groups(mesh)
  prompts, group, width, reply = run.case.shapes
  random, config = np.random.default_rng(0), run.config
  size, words = (prompts, width), config.vocab_size
  prompt_PxL = random.integers(0, words, size, np.int32)
  length_P = random.integers(1, width + 1, prompts, np.int32)
  advantage_PxG = random.normal(size=(prompts, group)).astype(np.float32)
  with jax.set_mesh(mesh), jax.default_matmul_precision('highest'):
    policy, reference = jax.device_put(params, whole)
    read = jax.device_put((prompt_PxL, length_P), split)
    rollout = sample(
      policy,
      *read,
      jax.device_put(np.arange(prompts), split),
      Temperature(run.settings.temperature),
      run.settings.seed,
      0,
      config=config,
      group_size=group,
      max_new_tokens=reply,
      eos=(0,),
    )
    learned = jax.device_put(rollout if given is None else given, split)
    _, (logp, ref_logp) = zip(
      *(
        reward_model.score_and_reference(
          model,
          None,
          *read,
          learned,
          run.settings.temperature,
          config=config,
          pooling='mean',
        )
        for model in (policy, reference)
      ),
      strict=True,
    )
    arrays = {'prompt': read[0], 'length': read[1], 'rollout': learned}
    arrays |= {'ref_logp': ref_logp} | jax.device_put(
      {'valid': np.ones((prompts, group), bool), 'advantage': advantage_PxG},
      split,
    )
    gradient, terms = learn(policy, arrays)
    return Numbers(*jax.device_get((rollout, logp, terms, gradient)))


def first_differences(a: np.ndarray, b: np.ndarray) -> list[int]:
  """Where replies `[P, G, T]` that are not the same begin to differ."""
  differs_NxT = (a != b).reshape(-1, a.shape[-1])
  return [int(row.argmax()) for row in differs_NxT if row.any()]


def compare(host: Numbers, ours: Numbers) -> dict[str, Any]:
  """How far the CPU and a device are apart that learned from its replies."""
  a, b = host.rollout, ours.rollout
  places = first_differences(a.token, b.token)
  # a reply's own log-probabilities, where both platforms sampled the same
  same_PxG = (a.token == b.token).all(-1)
  real_PxGxT = np.arange(a.token.shape[-1]) < a.length[..., None]
  own = np.where(same_PxG[..., None] & real_PxGxT, b.logp - ours.logp, 0.0)
  logp = np.where(real_PxGxT, host.logp - ours.logp, 0.0)
  flat = [
    np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(n.gradient)])
    for n in (ours, host)
  ]
  norms = [float(np.linalg.norm(gradient)) for gradient in flat]
  told = [
    {k: float(r.numerator / r.denominator) for k, r in n.terms.items()}
    for n in (ours, host)
  ]
  return {
    'logp': float(np.abs(logp).max()),
    'loss': abs(told[0]['loss'] - told[1]['loss']),
    'grad_norm': abs(norms[0] - norms[1]) / norms[1],
    'gradient': relative(*flat),
    'decoding': float(np.abs(own).max()),
    'replies_that_differ': len(places) / a.length.size,
    'first_difference': min(places, default=None),
    'cpu_values': told[1] | {'grad_norm': norms[1]},
  }


def of_model(run: Run, device: Any) -> dict[str, Any]:
  """`compare` of a step on a device with the same on the run's, a CPU."""
  host = run.mesh.devices.flat[0]

  @functools.partial(jax.jit, out_shardings=replicated(run.mesh))
  def make(key: jax.Array) -> Params:
    params = nn.unbox(weights.init_params(run.config, key))
    # wide enough for attention to matter
    return jax.tree.map(lambda a: 3 * a if a.ndim > 1 else a, params)

  # the reference is another model, or there would be no KL to compare
  keys = jax.device_put(jax.random.split(jax.random.key(1)), host)
  with jax.set_mesh(run.mesh):
    params = jax.device_get((make(keys[0]), make(keys[1])))
  loss = objective.make_loss(run.config, run.settings)

  @functools.partial(jax.grad, has_aux=True)
  def gradient(params: Params, arrays: Any) -> Any:
    terms = loss(params, {}, arrays)
    return terms['loss'].numerator, terms

  step_on = functools.partial(step, run, jax.jit(gradient), params)
  theirs = step_on(host, None)
  return compare(theirs, step_on(device, theirs.rollout))


# --- Attention --------------------------------------------------------------


# where a form lets queries look: the head, and which kernels' arguments
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
  """Queries, own keys, brief and segments of 2 prompts with 3 replies each."""
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


def of_attention(device: Any, host: Any) -> dict[str, float]:
  """Relative errors of cuDNN's outputs and gradients in bfloat16, the worst.

  Expected is what the reference makes on the host of the same numbers in
  float32.  Odd lengths have to be padded.  Elsewhere than on a GPU the same
  call runs on XLA's operations.
  """
  way = 'cudnn' if device.platform == 'gpu' else 'xla'
  fast = functools.partial(attention_kernels.cudnn, implementation=way)
  found = {}
  for form, (_, how) in FORMS.items():
    q, own, prefix, segment = inputs(form)
    ours = both(fast, device, q, own, prefix, segment, **how)
    wide = jax.tree.map(
      lambda x: x.astype(np.float32) if x.dtype == jnp.bfloat16 else x,
      (q, own, prefix),
    )
    theirs = both(attention_kernels.plain, host, *wide, segment, **how)
    errors = jax.tree.map(relative, ours, theirs)
    found[form] = float(np.max(jax.tree.leaves(errors)))
  return found


def both(
  attend: Any,
  device: Any,
  q: Any,
  own: KV,
  prefix: Prefix | None,
  segment: Any,
  **how: Any,
) -> Any:
  """The output, and gradients of all keys, values and queries."""
  brief = None if prefix is None else prefix.kv
  length = None if prefix is None else prefix.length_P

  @jax.jit
  def run(arrays: Any, segment: Any, length: Any) -> Any:
    def of(arrays: Any) -> tuple[jax.Array, jax.Array]:
      q, own, brief = arrays
      prefix = None if brief is None else Prefix(brief, length)
      out = attend(q, own, prefix, segment, **how)
      # a weight for every number, so that gradients do not cancel
      weight = jnp.cos(jnp.arange(out.size)).reshape(out.shape)
      return jnp.sum(out.astype(jnp.float32) * weight), out

    return jax.value_and_grad(of, has_aux=True)(arrays)

  placed = jax.device_put(((q, own, brief), segment, length), device)
  (_, out), gradients = run(*placed)
  return jax.device_get((out, gradients))


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
  """The error's size as a share of the expected numbers' size."""
  expected = np.asarray(theirs, np.float64)
  error = np.asarray(ours, np.float64) - expected
  return float(np.linalg.norm(error) / np.linalg.norm(expected))


def failures(found: dict[str, Any]) -> list[str]:
  """Which limits are exceeded; what is not a number exceeds all."""
  values = {name: found[name] for name in LIMITS if name != 'attention'}
  values |= {f'attention: {k}': v for k, v in found['attention'].items()}
  return [
    f'{name}: {value:.2e} is above {LIMITS[name.partition(":")[0]]:.0e}'
    for name, value in values.items()
    if not value <= LIMITS[name.partition(':')[0]]
  ]
