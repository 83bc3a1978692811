r"""Improves a judge's principles in an adversarial game on labelled replies.

  rlcw --config=configs/adversary.py --workdir=runs/adversary \
    --config.agents.endpoint.url=http://127.0.0.1:8000/v1 \
    --config.agents.endpoint.model=NAME

To use the result, pass the tasks `judge` and `grpo`
`--config.judge.principles=runs/adversary/principles.md`.

Cost: about 8 × batch_size model calls per round, and one call per dev reply for
every change that is tried.
Expect: principles.md and curves.png in the workdir; every version of both
strategies and its cause in strategies.jsonl; the generated replies in
fakes.jsonl; agreement on the held-out replies before and after in summary.json.
"""

from ml_collections import ConfigDict

from rlcw.models.compute import mesh_settings
from rlcw.rewards.judge.factory import judge_settings
from rlcw.sampling.llm import llm_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='adversary',
      # JSONL of {"prompt", "response", "label"} or {"prompt", "chosen",
      # "rejected"}; optional "split": train, dev or heldout
      labelled='@preferences.jsonl',
      # share of the training prompts, used if no record is in split dev
      dev=0.2,
      heldout=0.2,  # share of the prompts whose records have no "split"
      agents=llm_settings(),  # generator, reflector and optimiser
      # The detector is the judge that the principles are written for.  It can
      # be a local model; without one, the agents' model judges.  `principles`
      # is the starting point; `language` applies to every agent.
      judge=judge_settings(),
      # the generator's first strategy: a shipped list of rules or a file
      construction='@construction_en',
      rounds=8,  # at most
      batches=2,  # of attacks, and of labelled replies, in a round
      batch_size=4,  # replies
      patience=3,  # stop after this many rounds without better dev agreement
      max_calls=20_000,  # prompts sent to models, over the whole game
      seed=0,  # of the choice of prompts and replies
    )
    | mesh_settings()
  )
