"""Do replies keep the rules of their briefs?

  rlcw --config=configs/verify.py --workdir=runs/verdicts \
    --config.input=replies.jsonl

With --config.mode=benchmark the rules are IFEval's to the letter, and its four
numbers comparable with published ones.

Cost: seconds for a thousand replies on a CPU core.
Expect: verdicts.jsonl in the workdir, each line of the input with "strict" and
"loose"; the four numbers and a table by rule, printed and in summary.json.
"""

from ml_collections import ConfigDict

from rlcw.rewards.judge.factory import judge_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='verify',
      # JSONL of {"prompt", "response", "instruction_id_list", "kwargs"}
      input='replies.jsonl',
      output='',  # verdicts.jsonl in the workdir where empty
      mode='reward',  # or benchmark
      judge=judge_settings(),  # for demands, where there are any
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
