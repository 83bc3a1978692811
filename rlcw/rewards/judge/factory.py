"""Builds judges and their questions from a config's `judge` node."""

from typing import Any

from jax.sharding import Mesh

from rlcw import Config
from rlcw.models import language_model
from rlcw.models.language_model import LanguageModel
from rlcw.rewards.judge import questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Judge, Question
from rlcw.rewards.judge.remote import Form, JSONJudge
from rlcw.sampling import llm
from rlcw.sampling.llm import llm_settings


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
    max_reply_characters=4000,  # the rest of a longer reply is not shown
  )


def has_judge(settings: Config) -> bool:
  """Returns whether the settings name a model."""
  return bool(settings.model or settings.endpoint.url)


def make_judge(
  settings: Config,
  mesh: Mesh,
  base: LanguageModel | None = None,
  changing: bool = False,
) -> Judge | None:
  """Returns the configured judge, or None.

  Args:
    settings: as of `judge_settings`.
    mesh: the mesh for a model that is loaded here.
    base: a loaded model, used if it is the one named.
    changing: whether the principles will change from call to call.
  """
  if settings.endpoint.url:
    server = llm.make_endpoint(settings)
    return JSONJudge(server.asking(Form), settings.votes, server.usage)
  if not settings.model:
    return None
  model = language_model.reuse(settings.model, mesh, base)
  return LogprobJudge(model, settings.batch_size, changing)


def make_question(name: str, settings: Config) -> Question:
  """Builds a question from the `judge` settings.

  Args:
    name: a key of `questions.LABELS`.
    settings: the node, for the language and the principles.

  Raises:
    ValueError: the language is unknown, or the principles are blank.
    FileNotFoundError: there is no such file of principles.
  """
  if settings.language not in questions.LANGUAGES:
    raise ValueError(
      f'judge.language={settings.language!r}: expected one of '
      f'{questions.LANGUAGES}'
    )
  # The template of demands has no slot for principles.
  principles = '' if name == 'demand' else questions.read(settings.principles)
  return Question(
    name, settings.language, settings.max_reply_characters, principles
  )
