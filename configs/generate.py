"""Samples replies to a file of briefs.

  rlcw --config=configs/generate.py --workdir=runs/replies

The model is a folder, a GGUF file, a Hub id, or the workdir of a run, such as
  --config.model=runs/quickstart/grpo
The shipped briefs store their rules apart from the prompt;
--config.write_rules=True appends them to it.

Cost: about 5 minutes on 2 CPU cores.
Expect: replies.jsonl in the workdir, one line per brief with its "responses".
With samples=1 each line also has "response", the field that `verify`, `score`
and `judge` read.
"""

from ml_collections import ConfigDict

from rlcw.models.compute import sampling_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='generate',
      # folder, GGUF file, Hub id or workdir of a run
      model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      input='@briefs.jsonl',  # {"prompt"}, or any layout of docs/data.md
      system='',  # system message of prompts without their own
      output='',  # empty: replies.jsonl in the workdir
      # Append the rules in each record's instruction_id_list to its prompt, in
      # words.
      write_rules=False,
      # Whether to reply first without those rules, and then to rewrite that
      # reply by them, as in grpo; both replies have max_new_tokens together.
      two_turns=False,
      samples=1,  # replies to each brief
      temperature=0.7,  # 0: greedy
      # Set at most one of top_k and top_p.
      top_k=0,  # 0: off
      top_p=1.0,  # 1: off
      max_new_tokens=128,  # longer replies are cut
      batch_size=64,  # briefs at a time
      seed=0,  # of the replies
    )
    | sampling_settings()
  )
