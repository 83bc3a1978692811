"""Builds judges and their questions from a config's `judge` node."""

from typing import Any

from jax.sharding import Mesh

from rlcw import Config
from rlcw.models import language_model
from rlcw.models.language_model import LanguageModel
from rlcw.rewards.judge import questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Judge, Question
from rlcw.rewards.judge.remote import JSONJudge
from rlcw.sampling import endpoint

# --- Parts ------------------------------------------------------------------


def judge_settings() -> dict[str, Any]:
  """A config's `judge`: the model that answers questions, here or elsewhere."""
  return dict(
    model='',  # as everywhere, to be loaded here; none where empty
    endpoint=dict(
      url='',  # up to and with /v1, of an OpenAI-compatible server
      model='',  # the server's name of it
      key_variable='OPENAI_API_KEY',  # in the environment; may be unset
      temperature=0.0,
      max_tokens=512,
      concurrency=16,  # requests at a time
      timeout=120.0,  # seconds
      retries=4,  # after these a reply counts for nothing; 14 take a minute
      cache='',  # an SQLite file of replies that need not be asked for again
      prices=(0.0, 0.0),  # of a million tokens read, and written
    ),
    votes=1,  # of the endpoint, at a temperature above 0; the majority counts
    principles='@principles_writing_en',  # or a file
    language='en',  # of the questions: en | zh
    max_reply_characters=4000,  # what is longer is shown cut
    groups_per_pass=8,  # briefs that a model here reads at once
  )


def has_judge(settings: Config) -> bool:
  """Whether a model is named to answer questions."""
  return bool(settings.model or settings.endpoint.url)


def make_judge(
  settings: Config,
  mesh: Mesh,
  base: LanguageModel | None = None,
  changing: bool = False,
) -> Judge | None:
  """The model that a config's `judge` names; None where it names none.

  Args:
    settings: the node.
    mesh: where a model that is loaded here goes.
    base: a policy that need not be loaded again, where it is the one named.
    changing: whether it will judge by other principles again and again.
  """
  if settings.endpoint.url:
    server = endpoint.from_config(settings.endpoint)
    return JSONJudge(server.ask, settings.votes, lambda: server.usage.as_dict())
  if not settings.model:
    return None
  model = language_model.reuse(settings.model, mesh, base)
  return LogprobJudge(model, settings.groups_per_pass, changing)


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
