"""Builds judges and their questions from a config's `judge` node."""

import sys
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from rlcw import Config
from rlcw.models import language_model, weights
from rlcw.models.language_model import PLAIN, LanguageModel, Placement
from rlcw.rewards.judge import questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Judge, Question
from rlcw.rewards.judge.remote import Form, JSONJudge
from rlcw.sampling import llm, secret
from rlcw.sampling.llm import llm_settings

# Prose has 4 or 5 per token, Chinese 1 or 2; a text with more is no prose.
CHARACTERS_PER_TOKEN = 8


def judge_settings() -> dict[str, Any]:
  """Returns the settings of a judge: a model that answers about replies.

  Temperature, tokens, cache and votes apply to endpoints only: a model that is
  loaded here gives the probabilities of the labels.
  """
  settings = llm_settings(temperature=0.0, batch_size=8)  # briefs at a time
  del settings['seed']  # nothing is sampled from a model loaded here
  return settings | dict(
    votes=1,  # of an endpoint, at a temperature above 0; the majority counts
    principles='@principles_writing_en',  # or a file
    language='en',  # of the questions: en | zh
    # The rest of a longer reply is not shown; 0: 8 for each token that a reply
    # may have (CHARACTERS_PER_TOKEN), or no limit for replies from a file.
    max_reply_characters=0,
  )


def has_judge(settings: Config) -> bool:
  """Returns whether the settings name a model."""
  return llm.is_named(settings)


def make_judge(
  settings: Config,
  mesh: Mesh,
  base: LanguageModel | None = None,
  changing: bool = False,
  workdir: Path | None = None,
  placed: Placement = PLAIN,
  offload: bool = False,
) -> Judge | None:
  """Returns the configured judge, or None.

  Args:
    settings: as of `judge_settings`.
    mesh: the mesh for a model that is loaded here.
    base: a loaded model, used if it is the one named.
    changing: whether the principles will change from call to call.
    workdir: of the run, which keeps the secret of its questions' ids if no
      cache does (`secret.load`).
    placed: dtype and attention of a model that is loaded here without a base.
    offload: whether the weights of a model of its own wait in host memory
      between calls.
  """
  if settings.endpoint.url:
    server = llm.make_endpoint(settings)
    return JSONJudge(
      server.asking(Form),
      settings.votes,
      server.usage,
      server.trouble,
      secret.load(settings.cache, workdir),
    )
  if not settings.model:
    return None
  model = language_model.reuse(settings.model, mesh, base, placed)
  # The base's weights are moved by the task, if at all.
  if offload and (base is None or settings.model != base.source):
    waiting = weights.in_memory(model.params, 'pinned_host')
    model = model._replace(params=waiting)
  system = settings.get('system', '')  # absent in runs of earlier versions
  language_model.note_system(model, system, '--config.judge.system')
  return LogprobJudge(model, settings.batch_size, changing, system)


def reply_limit(max_reply_characters: int, max_tokens: int | None) -> int:
  """Returns the number of characters of a reply that prompts show.

  Args:
    max_reply_characters: the setting; 0 for enough characters.
    max_tokens: that a reply may have; None if unknown.

  Raises:
    ValueError: the setting is below 0.
  """
  if max_reply_characters < 0:
    raise ValueError(
      f'max_reply_characters={max_reply_characters}; expected 0 or more'
    )
  if max_reply_characters or max_tokens is None:
    return max_reply_characters or sys.maxsize
  return CHARACTERS_PER_TOKEN * max_tokens


def make_question(
  name: str, settings: Config, max_tokens: int | None = None
) -> Question:
  """Builds a question from the `judge` settings.

  Args:
    name: a key of `questions.LABELS`.
    settings: the node, for the language and the principles.
    max_tokens: that a reply may have; None if unknown.

  Raises:
    ValueError: the language is unknown, the principles are blank, or a limit is
      below 0.
    FileNotFoundError: there is no such file of principles.
  """
  if settings.language not in questions.LANGUAGES:
    raise ValueError(
      f'judge.language={settings.language!r}: expected one of '
      f'{questions.LANGUAGES}'
    )
  # The other templates have no slot for principles.
  by_principles = name in ('judge', 'compare')
  principles = questions.read(settings.principles) if by_principles else ''
  limit = reply_limit(settings.max_reply_characters, max_tokens)
  return Question(name, settings.language, limit, principles)
