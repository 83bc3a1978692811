"""A judge's verdict, Good or Bad, on every reply of a file.

  rlcw --config=configs/judge.py --workdir=runs/verdicts \
    --config.input=replies.jsonl --config.judge.model=PATH

or, by an OpenAI-compatible server,

    --config.judge.endpoint.url=http://127.0.0.1:8000/v1 \
    --config.judge.endpoint.model=NAME

Cost: a forward pass per reply; the principles are read once.
Expect: verdicts.jsonl in the workdir, each line of the input with "verdict" and
"p_good", and a "reason" where the judge gives one.
"""

from ml_collections import ConfigDict

from rlcw.rewards.judge.factory import judge_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='judge',
      # JSONL of {"prompt", "response"}, with "label" (1 Good, 0 Bad) to compare
      input='replies.jsonl',
      output='',  # verdicts.jsonl in the workdir where empty
      judge=judge_settings(),
      batch_size=32,
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
