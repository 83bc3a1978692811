"""RLMR's guarantee, and every mixer on hand-worked numbers."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlcw.losses import group_advantages
from rlcw.rewards import mixing

SHAPE = (3, 8)  # one, so that each program is compiled once
SIZES = (2, 4, 8)  # replies of a group: those after them are not valid
LIMIT = 1e6
SCALES = ('reward_std', 'writing_std', 'none')
# A mixer and the settings to try it with.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
  'suppress': ('rlmr', {'all_violating': 'suppress'}),
  'rank': ('rlmr', {'all_violating': 'rank'}),
  'skip': ('rlmr', {'all_violating': 'skip'}),
  'writing': ('writing', {}),
  'constraint': ('constraint', {}),
  'linear': ('linear', {'weight': 3.0}),
  'gate': ('gate', {}),
  'gdpo': ('gdpo', {'weight': 2.0}),
  'bonus': ('rlmr_bonus', {}),
  'clip': ('rlmr_clip', {}),
  'quality_gate': ('quality_gate', {}),
}

thorough = settings(max_examples=40)
quick = settings(max_examples=20)  # for what runs per variant
every_variant = pytest.mark.parametrize('variant', VARIANTS)
every_scale = pytest.mark.parametrize(
  ('jit', 'scale'), [(False, 'reward_std'), *((True, name) for name in SCALES)]
)


class Groups(NamedTuple):
  """What a mixer is given."""

  writing_PxG: np.ndarray
  violated_PxG: np.ndarray
  valid_PxG: np.ndarray

  @property
  def offender_PxG(self) -> np.ndarray:
    return self.violated_PxG & self.valid_PxG

  @property
  def compliant_PxG(self) -> np.ndarray:
    return ~self.violated_PxG & self.valid_PxG


def advantages(
  writing: Any,
  violated: Any,
  valid: Any,
  margin: Any = 0.5,
  *,
  variant: str,
  scale: str = 'reward_std',
) -> tuple[mixing.MixedRewards, jax.Array]:
  """As `rlcw.grpo.mix` does it."""
  name, options = VARIANTS[variant]
  mixer = mixing.MIXERS[name]
  if 'margin' in mixer.settings:
    options = options | {'margin': margin}
  mixed = mixer.mix(jnp.asarray(writing), violated, valid, **options)
  # Without the floor that depends on how large the scores are as given.
  floor = jnp.full_like(mixed.std_floor, mixing.STD_FLOOR)
  return mixed, mixing.advantages(mixed._replace(std_floor=floor), scale)


jitted = functools.partial(jax.jit, static_argnames=('variant', 'scale'))(
  advantages
)


def advantage_of(groups: Groups, *, jit: bool = True, **kwargs) -> np.ndarray:
  return np.asarray((jitted if jit else advantages)(*groups, **kwargs)[1])


def hand(
  mixed: mixing.MixedRewards, **scale: jax.Array
) -> tuple[list[float], float, list[float]]:
  """Reward, baseline and advantages of the only group."""
  advantage_PxG = mixed.advantage
  if advantage_PxG is None:
    advantage_PxG = group_advantages(
      mixed.reward, mixed.valid, baseline_P=mixed.baseline, **scale
    )
  return (
    np.asarray(mixed.reward)[0].tolist(),
    float(mixed.baseline[0]),
    np.asarray(advantage_PxG)[0].tolist(),
  )


def scores_and_flags(
  writing: list[float], violated: list[int]
) -> tuple[jax.Array, jax.Array]:
  """One group."""
  return jnp.array([writing], jnp.float32), jnp.array([violated], bool)


def close(value: Any) -> Any:
  return pytest.approx(np.asarray(value), rel=1e-5, abs=1e-6)


@st.composite
def scores(draw: st.DrawFn) -> np.ndarray:
  """Any finite scores, and the awkward ones: ties, offsets, tiny spreads."""
  unit = hnp.arrays(
    np.float32,
    SHAPE,
    elements=st.floats(-1, 1, width=32, allow_subnormal=False),
  )
  offset = draw(st.sampled_from((0.0, 0.0, 1.0, -1e3, LIMIT, -LIMIT)))
  spread = draw(st.sampled_from((0.0, 1e-30, 1e-6, 1e-3, 0.1, 1.0, 1e3, LIMIT)))
  value = np.float32(offset) + np.float32(spread) * draw(unit)
  return np.clip(value, -LIMIT, LIMIT).astype(np.float32)


@st.composite
def groups(
  draw: st.DrawFn, flags: str = 'any', integers: bool = False
) -> Groups:
  """Groups whose `flags` are `any`, `mixed` (both kinds valid), or `all`."""
  size = draw(st.sampled_from(SIZES))
  some = hnp.arrays(bool, SHAPE)
  if integers:
    small = hnp.arrays(np.int32, SHAPE, elements=st.integers(-1000, 1000))
    writing = draw(small).astype(np.float32)
  else:
    writing = draw(scores())
  violated, valid = draw(some), draw(some) | draw(some)
  valid[:, size:] = False
  if flags == 'mixed':  # scores do not know their column, so any two will do
    violated[:, 0], violated[:, 1] = True, False
    valid[:, :2] = True
  if flags == 'all':
    violated[:] = True
    valid[:, 0] = True
  return Groups(writing, violated, valid)


margins = st.floats(0.01, 2.0)


def test_rlmr_when_the_penalty_is_active() -> None:
  # mean 2, std 1, δ 0.5: ζ = (3 − 2 + 0.5) · 4/3 = 2
  w, v = scores_and_flags([3, 1, 3, 1], [1, 0, 0, 0])
  mixed = mixing.rlmr(w, v, margin=0.5)
  reward, baseline, advantage = hand(mixed)
  assert reward == close([-2, -2, 0, -2])
  assert baseline == close(-1.5)
  assert advantage == close(np.array([-1, -1, 3, -1]) / 3**0.5)
  assert float(mixed.penalty[0]) == close(2)
  assert float(mixed.writing_std[0]) == close(1)
  assert float(mixed.violators[0]) == close(0.25)


def test_rlmr_in_units_of_the_std_of_writing() -> None:
  w, v = scores_and_flags([6, 2, 6, 2], [1, 0, 0, 1])  # std 2, ζ = 3 · 4/2
  mixed = mixing.rlmr(w, v, margin=0.5)
  reward, _, advantage = hand(mixed, scale_P=mixed.writing_std)
  assert float(mixed.penalty[0]) == close(6)
  assert reward == close([-6, -4, 0, -10])
  assert advantage == close([-0.5, 0.5, 2.5, -2.5])


def test_rlmr_takes_nothing_from_violators_already_below() -> None:
  w, v = scores_and_flags([1, 3, 3, 1], [1, 0, 0, 0])
  mixed = mixing.rlmr(w, v, margin=0.5)
  assert float(mixed.penalty[0]) == 0
  assert hand(mixed)[2] == close([-1, 1, 1, -1])


def test_rlmr_without_a_violator_is_plain_grpo() -> None:
  w, v = scores_and_flags([3, 1, 3, 1], [0, 0, 0, 0])
  mixed = mixing.rlmr(w, v)
  assert float(mixed.penalty[0]) == 0
  assert float(mixed.violators[0]) == 0
  reward, baseline, advantage = hand(mixed)
  assert reward == close([0, -2, 0, -2])
  assert baseline == close(-1)
  assert advantage == close([1, -1, 1, -1])


@pytest.mark.parametrize(
  ('policy', 'advantage'),
  [
    ('suppress', [-0.5, -2.5, -0.5, -2.5]),
    ('rank', [1, -1, 1, -1]),
    ('skip', [0, 0, 0, 0]),
  ],
)
def test_rlmr_when_all_violate(policy: str, advantage: list[float]) -> None:
  w, v = scores_and_flags([3, 1, 3, 1], [1, 1, 1, 1])
  mixed = mixing.rlmr(w, v, margin=0.5, all_violating=policy)
  assert hand(mixed)[2] == close(advantage)
  assert float(mixed.penalty[0]) == 0
  assert bool(mixed.valid.all())  # the KL term still reads them


def test_all_violating_policies_leave_other_groups_alone() -> None:
  w = jnp.array([[3.0, 1, 3, 1]] * 3)
  v = jnp.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
  other = np.array([0, 2])
  results = [
    advantages(w, v, jnp.ones_like(v), variant=policy)[1][other]
    for policy in mixing.ALL_VIOLATING
  ]
  assert results[0][0] == close(np.array([-1, -1, 3, -1]) / 3**0.5)
  np.testing.assert_array_equal(results[0], results[1])
  np.testing.assert_array_equal(results[0], results[2])


def test_rlmr_margin_has_a_floor_when_scores_are_equal() -> None:
  w, v = scores_and_flags([7, 7], [1, 0])
  mixed = mixing.rlmr(w, v, margin=0.5)  # ζ = 0.5 · STD_FLOOR · 2
  assert float(mixed.penalty[0]) == close(mixing.STD_FLOOR)
  assert hand(mixed)[2] == close([-0.5, 0.5])


def test_writing_only() -> None:
  w, v = scores_and_flags([3, 1, 3, 1], [1, 0, 0, 0])
  mixed = mixing.writing_only(w, v)
  reward, baseline, advantage = hand(mixed)
  assert reward == close([0, -2, 0, -2])
  assert baseline == close(-1)
  assert advantage == close([1, -1, 1, -1])
  assert float(mixed.violators[0]) == close(0.25)


def test_constraint_only() -> None:
  w, v = scores_and_flags([9, -4, 2, 1], [1, 0, 0, 0])
  reward, baseline, advantage = hand(mixing.constraint_only(w, v))
  assert reward == close([0, 1, 1, 1])
  assert baseline == close(0.75)
  assert advantage == close(np.array([-3, 1, 1, 1]) / 3**0.5)


def test_linear() -> None:
  w, v = scores_and_flags([3, 1, 3, 1], [1, 0, 0, 1])
  mixed = mixing.linear(w, v, weight=1.0)
  reward, baseline, advantage = hand(mixed)
  assert reward == close([-1, -2, 0, -3])
  assert baseline == close(-1.5)
  assert advantage == close(np.array([0.5, -0.5, 1.5, -1.5]) / 1.25**0.5)
  assert float(mixed.penalty[0]) == close(1)


def test_gate() -> None:
  w, v = scores_and_flags([3, 1, 2, 2], [1, 0, 0, 0])
  reward, baseline, advantage = hand(mixing.gate(w, v))
  assert reward == close([-2, -2, -1, -1])
  assert baseline == close(-1.5)
  assert advantage == close([-1, -1, 1, 1])


def test_gdpo() -> None:
  w, v = scores_and_flags([13, 11, 13, 11], [1, 0, 0, 1])
  reward, baseline, advantage = hand(mixing.gdpo(w, v, weight=2.0))
  assert reward == close([-1, 1, 3, -3])
  assert baseline == close(0)
  assert advantage == close(np.array([-1, 1, 3, -3]) / 5**0.5)


def test_table_names_the_settings_that_mixers_take() -> None:
  for mixer in mixing.MIXERS.values():
    assert mixer.settings == tuple(
      name
      for name, parameter in inspect.signature(mixer.mix).parameters.items()
      if parameter.kind == parameter.KEYWORD_ONLY
    )


def test_unknown_policy_raises_with_the_legal_values() -> None:
  w, v = scores_and_flags([1, 2], [1, 0])
  with pytest.raises(ValueError, match=r'suppress.*rank.*skip') as error:
    mixing.rlmr(w, v, all_violating='ignore')
  assert 'ignore' in str(error.value)


@every_scale
@pytest.mark.parametrize('variant', mixing.ALL_VIOLATING)
@thorough
@given(case=groups('mixed'), margin=margins)
def test_every_violator_of_a_mixed_group_has_negative_advantage(
  jit: bool, scale: str, variant: str, case: Groups, margin: float
) -> None:
  advantage_PxG = advantage_of(
    case, jit=jit, margin=margin, variant=variant, scale=scale
  )
  assert np.isfinite(advantage_PxG).all()
  assert (advantage_PxG[case.offender_PxG] < 0).all()


PROMISES = {
  **{f'rlmr, {x}': mixing.rlmr for x in mixing.ALL_VIOLATING},
  'constraint': mixing.constraint_only,
}


@functools.partial(jax.jit, static_argnames=('promise', 'scale'))
def _promised(
  writing: jax.Array, violated: jax.Array, promise: str, scale: str
) -> jax.Array:
  options = {}
  if promise != 'constraint':
    policy = promise.split()[-1]
    options = {'margin': mixing.LEAST_MARGIN, 'all_violating': policy}
  mixed = PROMISES[promise](writing, violated, **options)
  return group_advantages(
    mixed.reward,
    mixed.valid,
    baseline_P=mixed.baseline,
    scale_P={'writing_std': mixed.writing_std}.get(scale),
    std_floor=mixed.std_floor,
  )


@pytest.mark.parametrize('promise', PROMISES)
@pytest.mark.parametrize('scale', ['reward_std', 'writing_std'])
def test_the_least_margin_holds_in_float32(promise: str, scale: str) -> None:
  """Groups of 2 to 64, scores and their spreads from 1e-8 to 1e4."""
  rng = np.random.default_rng(0)
  for size in (2, 8, 64):
    shape = (2048, size)
    spread, offset = 10.0 ** rng.uniform(-8, 4, (2, shape[0], 1))
    unit = np.where(
      rng.random((shape[0], 1)) < 0.5,
      rng.uniform(-1, 1, shape),
      rng.random(shape) < 1 / size,  # one far above the others
    )
    sign = rng.choice([-1, 0, 1], (shape[0], 1))
    writing = (sign * offset + spread * unit).astype(np.float32)
    violated = rng.random(shape) < rng.random((shape[0], 1))
    violated[:, 0], violated[:, -1] = True, False
    found = np.asarray(_promised(writing, violated, promise, scale))
    assert np.isfinite(found).all()
    assert (found[violated] < 0).all()


@pytest.mark.parametrize('margin', [0.0, 1e-6, 9e-4, -1.0, np.nan, -np.inf])
def test_a_margin_that_rounding_may_undo_is_refused(margin: float) -> None:
  w, v = scores_and_flags([2, 1], [1, 0])
  for value in (margin, jnp.float32(margin)):
    with pytest.raises(ValueError, match=r'mixing\.margin=.*at least 0\.001'):
      mixing.rlmr(w, v, margin=value)


@every_variant
def test_scores_that_differ_by_rounding_give_little_advantage(
  variant: str,
) -> None:
  low = np.float32(10_000.1)
  high = np.nextafter(low, np.float32(2e4))
  w = jnp.array([[low, high] * 4, [low] * 8])
  mixed, _ = advantages(w, jnp.zeros((2, 8)), None, variant=variant)
  found = mixing.advantages(mixed)
  assert abs(found[0]).max() < 0.2
  assert not found[1].any()


@every_scale
@thorough
@given(case=groups('all'), margin=margins)
def test_suppress_makes_all_advantages_negative_where_all_violate(
  jit: bool, scale: str, case: Groups, margin: float
) -> None:
  advantage_PxG = advantage_of(
    case, jit=jit, margin=margin, variant='suppress', scale=scale
  )
  assert np.isfinite(advantage_PxG).all()
  assert (advantage_PxG[case.valid_PxG] < 0).all()


@thorough
@given(case=groups('mixed', integers=True), margin=margins)
def test_best_violator_ends_at_the_margin_or_below(
  case: Groups, margin: float
) -> None:
  """ζ is the least penalty that does it: where it acts, it meets δ exactly."""
  mixed, advantage_PxG = jitted(
    *case, margin=margin, variant='skip', scale='none'
  )
  best_P = np.max(
    advantage_PxG, axis=-1, where=case.offender_PxG, initial=-np.inf
  )
  delta_P = margin * np.maximum(mixed.writing_std, mixing.STD_FLOOR)
  active_P = np.asarray(mixed.penalty) > 0
  slack_P = 1e-6 * np.maximum(1.0, np.abs(mixed.reward).max(-1))
  assert (best_P <= -delta_P + slack_P).all()
  assert (np.abs(best_P + delta_P) <= slack_P)[active_P].all()


@pytest.mark.parametrize('variant', ['suppress', 'rank', 'linear', 'gdpo'])
@quick
@given(case=groups(), margin=margins)
def test_order_is_kept_within_each_class(
  variant: str, case: Groups, margin: float
) -> None:
  """Weakly always; strictly where the gap is larger than rounding."""
  mixed, advantage_PxG = jitted(*case, margin=margin, variant=variant)
  reward_PxG = np.asarray(mixed.reward)
  advantage_PxG = np.asarray(advantage_PxG)
  gap_PxGxG = case.writing_PxG[:, :, None] - case.writing_PxG[:, None, :]
  rise_PxGxG = advantage_PxG[:, :, None] - advantage_PxG[:, None, :]
  size_Px1x1 = np.abs(reward_PxG).max(-1)[:, None, None]
  for class_PxG in (case.offender_PxG, case.compliant_PxG):
    both_PxGxG = class_PxG[:, :, None] & class_PxG[:, None, :]
    assert (rise_PxGxG[both_PxGxG & (gap_PxGxG >= 0)] >= 0).all()
    if variant != 'gdpo':  # its rewards are not in the unit of `writing`
      clear_PxGxG = gap_PxGxG > np.maximum(1e-5 * size_Px1x1, 1e-20)
      assert (rise_PxGxG[both_PxGxG & clear_PxGxG] > 0).all()


@every_variant
@quick
@given(case=groups(integers=True), data=st.data())
def test_replies_may_come_in_any_order(
  variant: str, case: Groups, data: st.DataObject
) -> None:
  order_G = np.array(data.draw(st.permutations(range(case[0].shape[1]))))
  moved = Groups(*(x_PxG[:, order_G] for x_PxG in case))
  np.testing.assert_allclose(
    advantage_of(moved, variant=variant),
    advantage_of(case, variant=variant)[:, order_G],
    rtol=1e-4,
    atol=1e-5,
  )


@every_variant
@quick
@given(case=groups(integers=True), shift=st.integers(-1_000_000, 1_000_000))
def test_a_constant_added_to_the_scores_changes_nothing(
  variant: str, case: Groups, shift: int
) -> None:
  """To the bit: these integers and their differences are exact in float32."""
  moved = case._replace(writing_PxG=case.writing_PxG + np.float32(shift))
  np.testing.assert_array_equal(
    advantage_of(moved, variant=variant), advantage_of(case, variant=variant)
  )


@every_variant
@quick
@given(
  case=groups(),
  junk=st.sampled_from((0.0, LIMIT, -LIMIT, 3e38, np.inf, -np.inf, np.nan)),
)
def test_invalid_replies_are_inert(
  variant: str, case: Groups, junk: float
) -> None:
  invalid_PxG = ~case.valid_PxG
  other = Groups(
    np.where(invalid_PxG, np.float32(junk), case.writing_PxG),
    case.violated_PxG ^ invalid_PxG,
    case.valid_PxG,
  )
  advantage_PxG = advantage_of(case, variant=variant)
  assert (advantage_PxG[invalid_PxG] == 0).all()
  np.testing.assert_array_equal(
    advantage_of(other, variant=variant), advantage_PxG
  )


@every_variant
@pytest.mark.parametrize('violated', [[1, 0], [0, 0], [1, 1]])
def test_an_invalid_reply_might_as_well_not_be_there(
  variant: str, violated: list[int]
) -> None:
  w, v = scores_and_flags([3, 1], violated)
  alone, expected_PxG = advantages(w, v, None, variant=variant)
  w4, v4 = scores_and_flags([3, 0, 9, 1], [violated[0], 1, 0, violated[1]])
  valid = jnp.array([[True, False, False, True]])
  mixed, advantage_PxG = advantages(w4, v4, valid, variant=variant)
  kept = np.array([0, 3])
  np.testing.assert_allclose(
    advantage_PxG[:, kept], expected_PxG, rtol=1e-5, atol=1e-6
  )
  for name in ('baseline', 'penalty', 'writing_std', 'violators'):
    assert getattr(mixed, name) == close(getattr(alone, name)), name


@every_variant
@pytest.mark.parametrize('writing', [0.0, 5.0, np.nan])
def test_a_group_without_a_valid_reply_gives_zeros(
  variant: str, writing: float
) -> None:
  w = jnp.array([[writing, writing], [3.0, 1.0]])
  v = jnp.array([[True, False], [True, False]])
  valid = jnp.array([[False, False], [True, True]])
  mixed, advantage_PxG = advantages(w, v, valid, variant=variant)
  np.testing.assert_array_equal(advantage_PxG[0], [0.0, 0.0])
  given = mixed._replace(advantage=advantage_PxG)
  finite = [np.isfinite(x).all() for x in given]
  assert all(finite), dict(zip(given._fields, finite, strict=True))


@functools.partial(jax.jit, static_argnames='variant')
def _writing_gradient(
  groups: Groups, weight_PxG: np.ndarray, margin: float, *, variant: str
) -> jax.Array:
  def scalar(writing_PxG: jax.Array) -> jax.Array:
    case = groups._replace(writing_PxG=writing_PxG)
    return (advantages(*case, margin, variant=variant)[1] * weight_PxG).sum()

  return jax.grad(scalar)(jnp.asarray(groups.writing_PxG))


def gradient(case: Groups, margin: float = 0.5, *, variant: str) -> np.ndarray:
  """Of a scalar that tells all advantages apart."""
  weight_PxG = np.arange(1.0, case.writing_PxG.size + 1, dtype=np.float32)
  weight_PxG = weight_PxG.reshape(case.writing_PxG.shape)
  return np.asarray(
    _writing_gradient(case, weight_PxG, margin, variant=variant)
  )


@pytest.mark.parametrize('variant', mixing.ALL_VIOLATING)
@thorough
@given(case=groups('mixed', integers=True), margin=margins)
def test_gradients_to_the_scores_are_finite(
  variant: str, case: Groups, margin: float
) -> None:
  case.writing_PxG[:, 0] = case.writing_PxG[:, 1] + 1  # some spread
  gradient_PxG = gradient(case, margin, variant=variant)
  assert np.isfinite(gradient_PxG).all()
  assert (gradient_PxG[~case.valid_PxG] == 0).all()


@pytest.mark.parametrize(
  ('variant', 'writing', 'valid'),
  [
    ('skip', [2.0, 1.0], [False, False]),
    ('skip', [2.0, 2.0], [True, True]),
    ('skip', [2.0, 1.0], [True, False]),
    # the gate makes these rewards equal
    ('gate', [2.0, 1.0], [True, True]),
  ],
)
def test_gradients_are_finite_without_spread(
  variant: str, writing: list[float], valid: list[bool]
) -> None:
  case = Groups(
    np.array([writing], np.float32),
    np.array([[True, False]]),
    np.array([valid]),
  )
  assert np.isfinite(gradient(case, variant=variant)).all()


@pytest.mark.parametrize(
  ('name', 'setting'),
  [('rlmr', 'margin'), ('linear', 'weight'), ('gdpo', 'weight')],
)
def test_changing_a_number_does_not_recompile(name: str, setting: str) -> None:
  mixer = mixing.MIXERS[name].mix
  compiled = jax.jit(lambda w, v, x: mixer(w, v, **{setting: x}))
  w, v = scores_and_flags([3, 1, 3, 1], [1, 0, 0, 0])
  penalised = [float(compiled(w, v, x).reward[0, 0]) for x in (0.5, 1.0, 2.0)]
  assert penalised[0] > penalised[1] > penalised[2]
  assert compiled._cache_size() == 1


def test_max_violator_advantage() -> None:
  advantage = jnp.array([[-3.0, -1, 5, 2], [-0.5, -0.25, -2, -3]])
  v = jnp.array([[1, 1, 0, 0], [1, 1, 1, 1]], bool)
  mixed = mixing.rlmr(jnp.zeros((2, 4)), v, all_violating='suppress')
  worst = functools.partial(mixing.max_violator_advantage, advantage, v, mixed)
  assert float(worst(all_violating=False)) == -1
  assert float(worst(all_violating=True)) == -0.25


def test_max_violator_advantage_leaves_out_invalid_replies() -> None:
  advantage = jnp.array([[-3.0, 0.0, 5, 2]])
  v = jnp.array([[1, 1, 0, 0]], bool)
  valid = jnp.array([[1, 0, 1, 1]], bool)
  mixed = mixing.rlmr(jnp.zeros((1, 4)), v, valid)
  worst = mixing.max_violator_advantage(advantage, v, mixed, all_violating=True)
  assert float(worst) == -3


@pytest.mark.parametrize('violated', [[0, 0], [1, 1]])
def test_max_violator_advantage_of_nobody(violated: list[int]) -> None:
  w, v = scores_and_flags([2, 1], violated)
  mixed, advantage = advantages(w, v, jnp.ones_like(v), variant='skip')
  worst = mixing.max_violator_advantage(
    advantage, v, mixed, all_violating=False
  )
  assert float(worst) == -np.inf


@pytest.mark.parametrize('weight', [0.1, 1.0, 100.0])
def test_a_fixed_weight_can_reward_a_violator_and_rlmr_cannot(
  weight: float,
) -> None:
  w, v = scores_and_flags([10 * weight, 0, 0, weight], [1, 0, 0, 0])
  mixed = mixing.linear(w, v, weight=weight)
  assert hand(mixed)[2][0] > 1.0
  assert hand(mixing.rlmr(w, v))[2][0] < 0


def test_gdpo_can_reward_a_violator_and_rlmr_cannot() -> None:
  w, v = scores_and_flags([1, 0, 0, 0], [1, 1, 0, 0])
  assert hand(mixing.gdpo(w, v))[2][0] > 0.5
  assert max(hand(mixing.rlmr(w, v))[2][:2]) < 0


def test_gate_cannot_tell_a_violator_from_the_worst_and_rlmr_can() -> None:
  w, v = scores_and_flags([5, 5, 5, 5], [1, 0, 0, 0])
  assert hand(mixing.gate(w, v))[2] == [0, 0, 0, 0]
  assert hand(mixing.rlmr(w, v))[2][0] < 0 < min(hand(mixing.rlmr(w, v))[2][1:])
