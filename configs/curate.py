r"""Builds preference pairs for queries by a debate of agents on each candidate.

  rlcw --config=configs/curate.py --workdir=runs/pairs \
    --config.writer.model=PATH --config.agent.model=PATH

For either role an OpenAI-compatible server can serve the model instead:

    --config.agent.endpoint.url=http://127.0.0.1:8000/v1 \
    --config.agent.endpoint.model=NAME

Cost: per query, `candidates` replies of the writer, and for each of these four
replies of the agent, or up to eight if invalid JSON has to be requested again.
Expect: preferences.jsonl in the workdir, for --config.preferences of
reward_model; trace.jsonl with the full debate on every candidate.
"""

from ml_collections import ConfigDict

from rlcw.models.compute import mesh_settings
from rlcw.sampling.llm import llm_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='curate',
      # JSONL of {"prompt"}; without a writer of {"prompt", "response"}, whose
      # replies are the candidates, optional "label": 1 or 0, to compare with
      queries='@themes.jsonl',
      # JSONL of {"response"} or {"chosen"}, optional "prompt": example texts
      # that the writer sees; empty: no examples
      corpus='@preferences.jsonl',
      language='en',  # en | zh; records in another language are skipped
      # Retrieval: the `neighbours` texts of the corpus nearest to a query, of
      # which the writer sees the `examples` with the highest `popularity`.
      popularity='popularity',  # name of the field
      # tfidf, or a model of sentence-transformers (pip install -e .[embed])
      embedder='tfidf',
      neighbours=20,  # found for a query
      examples=3,  # of these, shown to the writer
      candidates=4,  # per query
      # longest allowed ratio between the lengths of a pair's replies; 0: any
      length_ratio=0.0,
      # the rest of a longer reply is not shown; 0: 8 for each new token
      max_reply_characters=0,
      writer=llm_settings(temperature=1.0, max_new_tokens=256),
      # advocate, critic, judge and auditor
      agent=llm_settings(temperature=0.0),
      batch_size=16,  # queries at a time
    )
    | mesh_settings()
  )
