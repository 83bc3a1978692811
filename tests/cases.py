"""Which cases of a test are in the default suite."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], *names: Any) -> list[Any]:
  """All cases, of which those without a name here are marked slow."""
  missing = set(names) - {*(cases := [*cases])}
  assert not missing, missing
  slow = pytest.mark.slow
  return [c if c in names else pytest.param(c, marks=slow) for c in cases]
