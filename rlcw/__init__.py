"""rlcw: reinforcement learning for creative writing, in JAX."""

from typing import Any, TypeAlias

__version__ = '0.1.0'

# An ml_collections.ConfigDict: attributes of any type, so of no static one.
Config: TypeAlias = Any
