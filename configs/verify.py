r"""Checks replies against the rules of their briefs.

  rlcw --config=configs/verify.py --workdir=runs/verdicts \
    --config.input=replies.jsonl

With --config.mode=benchmark, it applies the rules of IFEval and IFBench
exactly, so that their four accuracies are comparable with published ones.

Cost: seconds per thousand replies on a CPU core.
Expect: verdicts.jsonl in the workdir: each input line with "strict" and "loose"
added; the four accuracies and a table by rule, printed and in summary.json.
"""

from ml_collections import ConfigDict

from rlcw.models.compute import inference_settings
from rlcw.rewards.judge.factory import judge_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='verify',
      # JSONL of {"prompt", "response", "instruction_id_list", "kwargs"}
      input='replies.jsonl',
      output='',  # empty: verdicts.jsonl in the workdir
      # `reward` tightens the rules that a benchmark lets pass too easily.
      mode='reward',  # reward | benchmark
      # answers for demands, which no rule can check; needed only if a brief has
      # some
      judge=judge_settings(),
    )
    | inference_settings()
  )
