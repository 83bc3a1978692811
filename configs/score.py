r"""Scores the writing of every reply in a file.

  rlcw --config=configs/score.py --workdir=runs/scores \
    --config.run=runs/mine/reward_model --config.input=replies.jsonl

Cost: about 5 short replies per second on 2 CPU cores.
Expect: scores.jsonl in the workdir: each input line with "score" added.
"""

from ml_collections import ConfigDict

from rlcw.models.compute import inference_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='score',
      # workdir of a reward model, or the folder of a Hugging Face sequence
      # classifier with one label
      run='runs/quickstart/reward_model',
      input='replies.jsonl',  # JSONL of {"prompt", "response"}
      output='',  # empty: scores.jsonl in the workdir
      batch_size=16,  # replies at a time
    )
    | inference_settings()
  )
