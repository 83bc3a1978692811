r"""Judges every reply of a file as Good or Bad.

  rlcw --config=configs/judge.py --workdir=runs/verdicts \
    --config.input=replies.jsonl --config.judge.model=PATH

or with an OpenAI-compatible server:

    --config.judge.endpoint.url=http://127.0.0.1:8000/v1 \
    --config.judge.endpoint.model=NAME

Cost: a forward pass per reply; the prefill of the principles is shared.
Expect: verdicts.jsonl in the workdir: each input line with "verdict" and
"p_good" added, and "reason" if the judge gives one.
"""

from ml_collections import ConfigDict

from rlcw.models.compute import inference_settings
from rlcw.rewards.judge.factory import judge_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='judge',
      # JSONL of {"prompt", "response"}; with "label" (1 Good, 0 Bad) the
      # summary also has the agreement of verdicts and labels
      input='replies.jsonl',
      output='',  # empty: verdicts.jsonl in the workdir
      judge=judge_settings(),
      batch_size=32,  # replies that are judged and written at once
    )
    | inference_settings()
  )
