"""Forms of RLMR, and its rivals, on hand-worked numbers and by properties."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ml_collections import ConfigDict

from rlcw.rewards import mixing

SHAPE = 3, 8  # one for all, so that one program is compiled for each mixer
FORMS = 'rlmr', 'rlmr_bonus', 'rlmr_clip'
some = settings(max_examples=40)


def close(value: Any) -> Any:
  return pytest.approx(np.asarray(value), rel=1e-5, abs=1e-6)


def group(*numbers: float) -> jax.Array:
  return jnp.array([numbers], jnp.float32)


@functools.partial(jax.jit, static_argnames=('name', 'scale', 'all_violating'))
def advantages(
  writing: Any,
  violated: Any,
  valid: Any,
  margin: Any = 0.5,
  *,
  name: str,
  scale: str = 'reward_std',
  all_violating: str = 'skip',
) -> jax.Array:
  mixed = mixing.MIXERS[name].mix(
    writing, violated, valid, margin=margin, all_violating=all_violating
  )
  return mixing.advantages(mixed, scale)


@st.composite
def mixed_groups(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Scores, violations and valid replies, of both kinds in each group."""
  spread = draw(st.sampled_from((0.0, 1e-6, 1e-3, 1.0, 1e6)))
  offset = draw(st.sampled_from((0.0, -1e3, 1e6)))
  unit = hnp.arrays(np.float32, SHAPE, elements=st.floats(-1, 1, width=32))
  writing = (offset + spread * draw(unit)).astype(np.float32)
  violated = draw(hnp.arrays(bool, SHAPE))
  valid = draw(hnp.arrays(bool, SHAPE)) | draw(hnp.arrays(bool, SHAPE))
  violated[:, 0], violated[:, -1] = True, False
  valid[:, [0, -1]] = True
  return writing, violated, valid


def test_bonus_lifts_the_worst_compliant_reply_to_the_mean() -> None:
  # mean 2; the violator at 2 needs ζ = (2 − 2 + 0.5 · √2) · 3/2 = 1.06, the
  # reply at 0 needs ζ = (2 − 0) · 3/1 = 6
  mixed = mixing.rlmr_bonus(group(2, 4, 0), group(1, 0, 0))
  assert mixed.penalty == close([6.0])
  # relative to the best score, 4
  assert mixed.reward == close([[-8, 0, -4]])
  assert mixing.advantages(mixed, 'none') == close([[-4, 4, 0]])


def test_bonus_is_rlmr_where_no_compliant_reply_is_below_the_mean() -> None:
  case = group(3, 1, 3, 3), group(1, 0, 0, 0)
  # mean 2.5, std √0.75: ζ = (0.5 + 0.5 · √0.75) · 4/3; the reply at 1 would
  # need (2.5 − 1) · 4 = 6, which is more
  assert mixing.rlmr_bonus(*case).penalty == close([6.0])
  case = group(1, 3, 3, 3), group(1, 0, 0, 0)
  assert mixing.rlmr_bonus(*case).reward == close(mixing.rlmr(*case).reward)


def test_clip_bounds_violators_and_leaves_the_others() -> None:
  # mean 2, std 1: z = 1, −1, 1, −1
  mixed = mixing.rlmr_clip(
    group(3, 1, 3, 1), group(1, 1, 0, 0), margin=jnp.float32(0.5)
  )
  assert mixing.advantages(mixed) == close([[-0.5, -1, 1, -1]])
  assert mixed.penalty == close([0.0])


@pytest.mark.parametrize(
  ('policy', 'advantage'),
  [('skip', [0, 0, 0]), ('rank', [1, -1, 0]), ('suppress', [-0.5, -1, 0])],
)
def test_clip_where_all_violate(policy: str, advantage: list[float]) -> None:
  found = advantages(
    group(3, 1, 9), group(1, 1, 0), group(1, 1, 0) > 0,
    name='rlmr_clip', all_violating=policy,
  )  # fmt: skip
  assert found == close([advantage])


@pytest.mark.parametrize('scale', ['reward_std', 'writing_std', 'none'])
@pytest.mark.parametrize('name', FORMS)
@some
@given(case=mixed_groups(), margin=st.floats(0.01, 4.0))
def test_no_rule_breaker_has_a_positive_advantage(
  name: str, scale: str, case: Any, margin: float
) -> None:
  _, violated, valid = case
  found = np.asarray(advantages(*case, margin, name=name, scale=scale))
  assert np.isfinite(found).all()
  assert (found[violated & valid] < 0).all()
  assert not found[~valid].any()
  if name == 'rlmr_bonus':
    slack = 1e-5 * max(1.0, abs(found).max())
    assert (found[~violated & valid] >= -slack).all()


@some
@given(case=mixed_groups(), margin=st.floats(0.01, 4.0))
def test_clip_keeps_order_among_the_compliant_whatever_violators_score(
  case: Any, margin: float
) -> None:
  writing, violated, valid = case
  found = np.asarray(advantages(*case, margin, name='rlmr_clip'))
  kept = ~violated & valid
  gap = writing[:, :, None] - writing[:, None, :]
  rise = found[:, :, None] - found[:, None, :]
  both = kept[:, :, None] & kept[:, None, :]
  assert (rise[both & (gap >= 0)] >= 0).all()


@pytest.mark.parametrize(
  ('violated', 'reward'),
  [
    # mean of w is 2: replies at 3 are above it
    ([0, 0, 1, 1], [2.0, 0.5, 0.0, 0.0]),
    # shares of rules broken: V = 1, 0.5, 0.25, 0
    ([0, 0.5, 0.75, 1], [2.0, 0.0, 1.25, 0.0]),
  ],
)
def test_quality_gate(violated: list[float], reward: list[float]) -> None:
  mixed = mixing.quality_gate(group(3, 1, 3, 1), group(*violated))
  assert mixed.reward == close([reward])
  assert mixed.baseline == close([np.mean(reward)])


def test_quality_gate_of_equal_scores_adds_the_same_to_all() -> None:
  mixed = mixing.quality_gate(group(7.1, 7.1, 7.1), group(0, 0, 1))
  assert mixed.reward == close([[0.5, 0.5, 0.0]])


def test_gdpo_whitens_over_the_batch() -> None:
  # Group 1: z(w) = 1, −1, z(1 − v) = −1, 1 → s = 0, 0.  Group 2 without a
  # violator: s = 1, −1.  Mean 0, std √(2/4) over all four.
  mixed = mixing.gdpo(
    jnp.array([[3.0, 1], [10, 0]]), jnp.array([[1.0, 0], [0, 0]])
  )
  assert mixed.reward == close([[0, 0], [1, -1]])
  assert mixing.advantages(mixed) == close([[0, 0], [2**0.5, -(2**0.5)]])


def test_gdpo_keeps_apart_groups_that_grpo_of_the_sum_makes_alike() -> None:
  # The published property: kept rules with equal writing, and kept rules with
  # better writing, differ in size; a division by each group's std equals them.
  writing = jnp.array([[0.0, 0, 0, 0], [0, 0, 1, 1]])
  violated = jnp.array([[0, 0, 1, 1], [1, 1, 0, 0]], bool)
  found = mixing.advantages(mixing.gdpo(writing, violated))
  # s = ±1 in the first group and ±2 in the second, std √2.5
  unit = 2.5**0.5
  assert found == close(
    [np.array([1, 1, -1, -1]) / unit, np.array([-2, -2, 2, 2]) / unit]
  )
  alike = mixing.advantages(mixing.linear(writing, violated))
  assert np.abs(alike) == close(np.ones((2, 4)))


@some
@given(case=mixed_groups(), factor=st.sampled_from((0.125, 2.0, 1024.0)))
def test_gdpo_of_a_group_does_not_depend_on_the_scale_of_another(
  case: Any, factor: float
) -> None:
  writing, violated, valid = case
  # Integers: their spread is far above rounding before and after scaling.
  writing = np.rint(np.clip(writing, -1e3, 1e3)).astype(np.float32)
  scaled = writing.copy()
  scaled[0] *= factor
  one, other = (
    np.asarray(_gdpo(each, violated, valid)) for each in (writing, scaled)
  )
  np.testing.assert_allclose(one, other, atol=1e-5)


@jax.jit
def _gdpo(writing: Any, violated: Any, valid: Any) -> jax.Array:
  return mixing.advantages(mixing.gdpo(writing, violated, valid))


def test_gdpo_of_a_batch_without_differences_has_no_advantage() -> None:
  mixed = mixing.gdpo(jnp.full((2, 3), 0.1), jnp.zeros((2, 3)))
  assert not np.asarray(mixing.advantages(mixed)).any()


@pytest.mark.parametrize(
  ('mixer', 'reward'),
  [
    # v = 0, 0.5, 1; w = 1, 2, 3 less the best
    (mixing.linear, [-2, -1.5, -1]),
    (mixing.constraint_only, [1, 0.5, 0]),
    # z(w) + z(1 − v) cancel
    (mixing.gdpo, [0, 0, 0]),
  ],
)
def test_shares_of_broken_rules(mixer: Any, reward: list[float]) -> None:
  mixed = mixer(group(1, 2, 3), group(0, 0.5, 1))
  assert mixed.reward == close([reward])
  assert mixed.violators == close([2 / 3])


@pytest.mark.parametrize('name', FORMS)
def test_the_guarantee_is_for_whoever_breaks_a_single_rule(name: str) -> None:
  found = advantages(
    group(9, 1, 1, 1), group(0.25, 0, 0, 0), jnp.ones((1, 4), bool), name=name
  )
  assert found[0, 0] < 0


@pytest.mark.parametrize(
  ('settings', 'scale', 'message'),
  [
    ({'name': 'rlmr', 'violation': 'share'}, 'reward_std', 'violation'),
    ({'name': 'rlmr_clip'}, 'none', 'advantage_scale'),
    ({'name': 'gdpo'}, 'none', 'advantage_scale'),
    ({'name': 'rlmr_clip'}, 'writing_std', 'advantage_scale'),
    ({'name': 'quality_gate'}, 'writing_std', 'advantage_scale'),
  ],
)
def test_settings_that_do_not_combine_are_refused(
  settings: dict[str, str], scale: str, message: str
) -> None:
  with pytest.raises(ValueError, match=rf'{message}.*expected'):
    mixing.check(ConfigDict(settings), scale)


@pytest.mark.parametrize(
  'name', ['constraint', 'linear', 'quality_gate', 'gdpo']
)
def test_shares_are_accepted_where_they_mean_something(name: str) -> None:
  mixing.check(ConfigDict({'name': name, 'violation': 'share'}), 'reward_std')


@pytest.mark.parametrize('value', [*mixing.ALL_VIOLATING, 'relabel'])
@pytest.mark.parametrize('name', mixing.MIXERS)
def test_all_violating_acts_or_is_refused(name: str, value: str) -> None:
  settings = ConfigDict({'name': name, 'all_violating': value})
  if value == 'skip' or 'rlmr' in name:
    mixing.check(settings, 'reward_std')
    return
  message = (
    f"^mixing.all_violating='{value}' does not fit mixing.name='{name}'.*"
    r"expected 'skip', or .* one of rlmr, rlmr_bonus, rlmr_clip$"
  )
  with pytest.raises(ValueError, match=message):
    mixing.check(settings, 'reward_std')


@pytest.mark.parametrize('name', mixing.MIXERS)
def test_a_number_that_a_mixer_does_not_read_is_refused(name: str) -> None:
  for setting, default in (('margin', 0.5), ('weight', 1.0)):
    settings = ConfigDict({'name': name, setting: default})
    mixing.check(settings, 'reward_std')
    settings[setting] = 2.0
    if setting in mixing.MIXERS[name].settings:
      mixing.check(settings, 'reward_std')
    else:
      with pytest.raises(ValueError, match=f'{setting}=2.0 has no effect'):
        mixing.check(settings, 'reward_std')
