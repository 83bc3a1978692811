"""Text generation: group rollout, grammars, and any model as `ask(prompts)`."""

from rlcw.sampling.rollout import sample as sample
