"""A game that sharpens the principles a judge reads, on labelled replies.

  rlcw --config=configs/adversary.py --workdir=runs/adversary \
    --config.agents.endpoint.url=http://127.0.0.1:8000/v1 \
    --config.agents.endpoint.model=NAME

Then `--config.judge.principles=runs/adversary/principles.md` of `judge` and
`grpo` reads what came out.

Cost: per round about 8 × batch_size calls, and with each change tried one for
each dev reply.
Expect: principles.md and curves.png in the workdir, every version of both
strategies with its cause in strategies.jsonl, fakes.jsonl, and agreement on the
held-out replies before and after in summary.json.
"""

from ml_collections import ConfigDict

from rlcw.rewards.judge.factory import judge_settings
from rlcw.sampling.llm import llm_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='adversary',
      # JSONL of {"prompt", "response", "label"} or {"prompt", "chosen",
      # "rejected"}, with "split" (train, dev, heldout) where wanted
      labelled='@preferences.jsonl',
      dev=0.2,  # of the training prompts, where no record is in dev
      heldout=0.2,  # of the prompts that name no split
      agents=llm_settings(),  # generator, reflector and optimiser
      # the detector: the judge that the principles are for, which may be a
      # model here; that of the agents where none is named.  `principles` are
      # those to begin with, `language` is everybody's
      judge=judge_settings(),
      construction='@construction_en',  # how to write flawed replies, or a file
      rounds=8,
      batches=2,  # of each phase, per round
      batch_size=4,  # replies
      patience=3,  # rounds without a rise of agreement on dev
      max_calls=20_000,  # prompts put to models
      seed=0,
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
