"""Preference pairs for queries, made by agents who debate each candidate.

  rlcw --config=configs/curate.py --workdir=runs/pairs \
    --config.writer.model=PATH --config.agent.model=PATH

or, for either, by an OpenAI-compatible server,

    --config.agent.endpoint.url=http://127.0.0.1:8000/v1 \
    --config.agent.endpoint.model=NAME

Cost: for a query `candidates` replies of the writer, and for each of them four
of the agent, or up to eight where its JSON has to be asked for again.
Expect: preferences.jsonl in the workdir, for --config.preferences of
reward_model; trace.jsonl, with all that was said of every candidate.
"""

from ml_collections import ConfigDict

from rlcw.sampling.llm import llm_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='curate',
      queries='@themes.jsonl',  # JSONL of {"prompt"}
      # JSONL of {"response"} or {"chosen"}, with "prompt" where it has one, to
      # take examples from; none where empty
      corpus='@preferences.jsonl',
      language='en',  # en | zh; records that name another are left out
      popularity='popularity',  # the field that ranks what is near
      embedder='tfidf',  # or a model that sentence-transformers loads
      neighbours=20,  # pieces of the corpus that are near
      examples=3,  # of these, the most popular, which the writer sees
      candidates=4,  # for each query
      length_ratio=0.0,  # how many times as long one of a pair may be; 0: any
      max_reply_characters=4000,  # what is longer is shown cut
      writer=llm_settings(temperature=1.0, max_new_tokens=256),
      # advocate, critic, judge and auditor
      agent=llm_settings(temperature=0.0),
      batch_size=16,
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
