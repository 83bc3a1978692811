r"""Makes briefs of plain prompts: finds the rules that the prompts state.

  rlcw --config=configs/extract.py --workdir=runs/extract \
    --config.input=prompts.jsonl

Patterns read the common wordings in English and Chinese.  A language model can
be asked for more:

    --config.agent.model=PATH

or with an OpenAI-compatible server:

    --config.agent.endpoint.url=http://127.0.0.1:8000/v1 \
    --config.agent.endpoint.model=NAME

Cost: some thirty prompts a second on a CPU core; with a model, a reply per
prompt, or two if invalid JSON has to be requested again.
Expect: briefs.jsonl in the workdir, for --config.briefs of `grpo`: each input
line with its rules, the words that state them (`matched`), and the sentences
that read like a requirement and state no known rule (`unread`).
"""

from ml_collections import ConfigDict

from rlcw.models.compute import mesh_settings
from rlcw.sampling.llm import llm_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='extract',
      # records with a prompt, in any layout; those that list rules are kept
      input='prompts.jsonl',
      output='',  # empty: briefs.jsonl in the workdir
      # Whether each unread text becomes a demand (`soft:demand`), which the
      # judge of `grpo` then checks.
      demands=False,
      # asked for the rules that no pattern finds; no model: patterns alone
      agent=llm_settings(temperature=0.0, max_new_tokens=1024),
      batch_size=32,  # prompts that are asked about at once
    )
    | mesh_settings()
  )
