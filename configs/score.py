r"""Scores the writing of every reply in a file.

  rlcw --config=configs/score.py --workdir=runs/scores \
    --config.run=runs/mine/reward_model --config.input=replies.jsonl

Cost: about 5 short replies per second on 2 CPU cores.
Expect: scores.jsonl in the workdir: each input line with "score" added.
"""

from ml_collections import ConfigDict


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
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all remaining devices
      # dtype of weights and activations; '': as in the run that trained the
      # reward model, else float32.  On a CPU bfloat16 is slower.
      compute_dtype='',  # float32 | bfloat16
      attention='',  # auto | xla; '': as in that run, else auto
    )
  )
