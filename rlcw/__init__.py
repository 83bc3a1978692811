"""rlcw: reinforcement learning for creative writing, in JAX.

In Python, `load`, `sample`, `check`, `score` and `judge` are the library
(`rlcw.api`, docs/python.md).
"""

import importlib
from typing import TYPE_CHECKING, Any, TypeAlias

__version__ = '0.1.0'
__all__ = ['check', 'judge', 'load', 'sample', 'score']

# An ml_collections.ConfigDict: attributes of any type, so of no static one.
Config: TypeAlias = Any


if TYPE_CHECKING:
  from rlcw.api import check, judge, load, sample, score
else:  # For type checkers it would define every name.

  def __getattr__(name: str) -> Any:
    # JAX takes seconds to import, and not every user of the package needs it.
    if name in __all__:
      return getattr(importlib.import_module('rlcw.api'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
