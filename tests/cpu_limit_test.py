"""The limit on CPU time stops Python code and regular expressions alike."""

import re

import pytest
from cpu_limit import cpu_limit


def test_a_loop_and_a_regular_expression_are_stopped() -> None:
  with pytest.raises(AssertionError, match='CPU time'), cpu_limit(0.05):
    while True:
      pass
  # takes 2**40 steps
  with pytest.raises(AssertionError, match='CPU time'), cpu_limit(0.05):
    re.match('(a|a)*b', 'a' * 40)


def test_a_block_within_the_limit_leaves_no_timer() -> None:
  with cpu_limit(0.05):
    pass
  sum(range(10**7))
