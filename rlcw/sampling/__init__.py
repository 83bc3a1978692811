"""Text out of a model: group rollout, grammars, and any model as `ask()`."""

from rlcw.sampling.rollout import sample as sample
