"""Replies to a file of briefs.

  rlcw --config=configs/generate.py --workdir=runs/replies

Any model serves: a folder, a GGUF file, a Hub id, or the workdir of a run:
  --config.model=runs/quickstart/grpo
The shipped briefs keep their rules apart: --config.write_rules=True adds them.

Cost: about 5 minutes on 2 CPU cores.
Expect: replies.jsonl in the workdir, a line per brief with its "responses"; one
alone is its "response" too, as `verify`, `score` and `judge` read it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='generate',
      model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      input='@briefs.jsonl',  # JSONL of {"prompt"}
      output='',  # replies.jsonl in the workdir where empty
      write_rules=False,  # append each record's instruction_id_list in words
      samples=1,
      temperature=0.7,  # 0: greedy
      top_k=0,  # 0: all
      top_p=1.0,  # 1: all
      max_new_tokens=128,
      batch_size=64,
      seed=0,
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
