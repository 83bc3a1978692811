"""Writing scores of a file of replies.

  rlcw --config=configs/score.py --workdir=runs/scores \
    --config.input=replies.jsonl

Cost: about 5 short replies a second on 2 CPU cores.
Expect: scores.jsonl in the workdir, each line of the input with its "score".
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='score',
      run='runs/quickstart/reward_model',  # or a sequence classifier's folder
      input='replies.jsonl',  # JSONL of {"prompt", "response"}
      output='',  # scores.jsonl in the workdir where empty
      batch_size=16,
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
