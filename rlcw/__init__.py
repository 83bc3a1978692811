"""rlcw: reinforcement learning for creative writing, in JAX."""

__version__ = '0.1.0'
