"""Weighted sums of names, as a setting has them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcw.runtime import sums


@pytest.mark.parametrize(
  ('text', 'weights'),
  [
    ('reward_model', {'reward_model': 1}),
    (' judge ', {'judge': 1}),
    # one name, whatever is in it
    ('', {'': 1}),
    ('../x', {'../x': 1}),
    ('my-module:a-b', {'my-module:a-b': 1}),
    ('-judge', {'-judge': 1}),
    ('judge+rubric', {'judge': 1, 'rubric': 1}),
    (
      '0.7*reward_model + 0.3*judge - 0.2*my_rewards:cliches',
      {'reward_model': 0.7, 'judge': 0.3, 'my_rewards:cliches': -0.2},
    ),
    ('2*judge', {'judge': 2}),
    ('- judge + .5 * a:b', {'judge': -1, 'a:b': 0.5}),
    ('a:b + -1e-3*c:d', {'a:b': 1, 'c:d': -0.001}),
    ('1e+3*my-module:f -2.*c:d', {'my-module:f': 1000, 'c:d': -2}),
    ('a.b:c+d.e:f', {'a.b:c': 1, 'd.e:f': 1}),
  ],
)
def test_names_have_their_weights(text: str, weights: dict[str, float]) -> None:
  found = sums.parse(text)
  assert found == weights
  assert [*found] == [*weights]  # in order


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('judge +', "'\\+' is no term; expected reward_model, judge, pairs, "),
    ('+ + judge', 'is no term'),
    ('0.5*', 'is no term'),
    ('*judge', 'is no term'),
    ('0.5**judge', 'is no term'),
    ('0.5 judge', "'judge' is no term"),
    ('judge, rubric', "'rubric' is no term"),
    ('2*3*judge', "'\\*judge' is no term"),
    ('a:b - c:d*0.3', "'\\*0.3' is no term"),
    ('nan*judge', 'is no term'),
    ('judge + 2*judge', "'judge' is named twice"),
    ('0*judge + rubric', "the weight of 'judge' is 0; expected a number other"),
    ('judge + 1e999*rubric', "weight of 'rubric' is inf"),
    ('judge + 1e7*rubric', 'from 1e-06 to 1e\\+06'),
  ],
)
def test_a_text_that_is_no_sum_is_refused(text: str, message: str) -> None:
  with pytest.raises(ValueError, match=f'^writing=.*{message}'):
    sums.parse(text)


@settings(max_examples=30)
@given(
  st.dictionaries(
    st.from_regex(r'[a-z_]\w*(\.\w+)?(:\w+)?', fullmatch=True),
    st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6),
    min_size=1,
    max_size=4,
  ),
  st.sampled_from([' + ', '+', '  +  ']),
)
def test_a_sum_is_read_as_it_was_written(
  weights: dict[str, float], plus: str
) -> None:
  text = plus.join(f'{weight!r}*{name}' for name, weight in weights.items())
  assert sums.parse(text) == weights


@given(st.text('+-* .:ab1e'))
def test_any_text_is_read_or_refused(text: str) -> None:
  try:
    found = sums.parse(text)
  except ValueError:
    return
  assert all(1e-6 <= abs(weight) <= 1e6 for weight in found.values())
