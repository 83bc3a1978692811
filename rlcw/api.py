"""The library in five functions: load, sample, check, score and judge.

`import rlcw` names them all, and imports this module when one is used.

A prompt is a text, a conversation (a list of {"role", "content"} up to the
reply), or a brief: a record with `prompt`, `instruction_id_list` and `kwargs`,
or a `Brief`.  A brief's rules are put into its prompt in words, as in training.

`check`, `score` and `judge` take one prompt for all replies, or a list with a
prompt for each entry of `replies`.  An entry is a text, or the list of all
replies to that prompt.  Results are nested like `replies`.

Letters: P prompts, G replies to each.
"""

import contextlib
import itertools
import numbers
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rlcw.data import batches, messages
from rlcw.data.messages import Message
from rlcw.models import language_model
from rlcw.models.language_model import LanguageModel, Placement
from rlcw.rewards import forms, reward_model, text_scores
from rlcw.rewards.briefs import Brief
from rlcw.rewards.forms import Prompt, Prompts, Reply, Rules, Text
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.local import LogprobJudge
from rlcw.rewards.judge.questions import Judge, Question
from rlcw.rewards.reward_model import RewardModel
from rlcw.runtime import console, ranges
from rlcw.runtime.checkpoint import Checkpoints
from rlcw.runtime.mesh import make_mesh, round_up_groups
from rlcw.sampling.outage import trouble_of
from rlcw.sampling.samplers import make_sampler
from rlcw.tasks import generate

Model: TypeAlias = LanguageModel | str | Path
# A model that is loaded here, or the settings `judge.endpoint` of a server.
JudgeModel: TypeAlias = Model | Mapping[str, Any]

# Settings of `judge` in a config that a server's may have beside its own.
_OF_ANSWERS = {'max_new_tokens', 'temperature', 'votes', 'cache'}
_BATCH = 8  # prompts, with their replies, that are read at a time


class Verdict(NamedTuple):
  """The verdict of one rule about one reply."""

  rule: str  # its id, such as length:words
  text: str  # the rule in words, as a prompt has it
  kept: bool | None  # None: a demand that no judge has answered


class Judgement(NamedTuple):
  """A judge's opinion of one reply."""

  p_good: float  # its probability of Good, 0 to 1; NaN without an answer
  reason: str  # '' where the judge gives none


# --- Load -------------------------------------------------------------------


@overload
def load(
  model: str | Path,
  *,
  reward: Literal[False] = False,
  dtype: str = 'float32',
  mesh: Mesh | None = None,
) -> LanguageModel: ...


@overload
def load(
  model: str | Path,
  *,
  reward: Literal[True],
  dtype: str = 'float32',
  mesh: Mesh | None = None,
) -> RewardModel: ...


def load(
  model: str | Path,
  *,
  reward: bool = False,
  dtype: str = 'float32',
  mesh: Mesh | None = None,
) -> LanguageModel | RewardModel:
  """Loads a language model, or a reward model.

  Args:
    model: a folder with `config.json`, safetensors and a tokenizer; a GGUF
      file; a Hub id (`org/name`); or the workdir of a run.  Of a run it is the
      model at its last checkpoint, with adapters merged; an unfinished run is
      logged as such.
    reward: whether it is a reward model: the workdir of a finished
      `reward_model` run, or a sequence classifier with one label.
    dtype: of weights and activations, float32 or bfloat16.
    mesh: of devices; by default all devices, over which batches are split.

  Raises:
    FileNotFoundError: there is no such model, or the run has no checkpoint.
    ValueError: it is damaged, not supported, or of the other kind; or `dtype`
      is unknown.

  >>> model = rlcw.load('runs/my/grpo')
  >>> taste = rlcw.load('runs/my/reward_model', reward=True)
  """
  if not isinstance(model, str | Path):
    raise ValueError(
      f'model={model!r:.80}; expected a path, a Hub id or a workdir'
    )
  if dtype not in ('float32', 'bfloat16'):
    raise ValueError(f'dtype={dtype!r}; expected float32 or bfloat16')
  mesh = make_mesh() if mesh is None else mesh
  with jax.set_mesh(mesh), _quietly():
    if reward:
      loaded = reward_model.load_alone(str(model), mesh, Placement(dtype))
      decoder = language_model.cast(loaded.decoder, dtype, 'auto')
      return loaded._replace(decoder=decoder)
    policy = language_model.load(model, mesh, Placement(dtype))
    _log_unfinished(model)
    return policy


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
  """Keeps back Orbax's warnings, which are about settings that are intended."""
  before = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _log_unfinished(model: str | Path) -> None:
  """Logs the runs that have not finished, among those that made a model."""
  run = language_model.run_config(model)
  if run is None or run.task == 'reward_model':
    return
  if not (Path(model) / 'summary.json').exists():
    checkpoints = Checkpoints(Path(model) / 'checkpoints', read_only=True)
    console.log(
      f'{model} has not finished: the model is that of step '
      f'{checkpoints.latest()} of {run.get("steps")}'
    )
    checkpoints.close()
  _log_unfinished(run.model)


# --- Sample -----------------------------------------------------------------


@overload
def sample(
  model: Model,
  prompts: str | Brief | Mapping[str, Any] | Sequence[Message],
  *,
  n: int = 1,
  max_new_tokens: int = 256,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  seed: int = 0,
  batch_size: int = 16,
) -> list[Reply]: ...


# The messages of one prompt, or several briefs: types do not tell them apart.
@overload
def sample(
  model: Model,
  prompts: Sequence[Mapping[str, Any]],
  *,
  n: int = 1,
  max_new_tokens: int = 256,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  seed: int = 0,
  batch_size: int = 16,
) -> Any: ...


@overload
def sample(
  model: Model,
  prompts: Sequence[Prompt],
  *,
  n: int = 1,
  max_new_tokens: int = 256,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  seed: int = 0,
  batch_size: int = 16,
) -> list[list[Reply]]: ...


def sample(
  model: Model,
  prompts: Any,
  *,
  n: int = 1,
  max_new_tokens: int = 256,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  seed: int = 0,
  batch_size: int = 16,
) -> list[Reply] | list[list[Reply]]:
  """Samples n replies to one prompt, or to each of several.

  A reply depends on the seed, the place of its prompt in the list and its
  number, not on `batch_size` or devices.

  Args:
    model: as `load` returns or takes it.  The system message of the run that
      trained it stands before prompts without their own.
    prompts: a prompt, or a list of P prompts.
    n: replies to each.
    max_new_tokens: longest reply; one that is cut off has `finished=False`.
    temperature: 0 for the most likely tokens.
    top_k: number of tokens to sample from; 0 for all.
    top_p: share of the probability to sample from; 1 for all.  At most one of
      `top_k` and `top_p` is set.
    seed: of the random numbers.
    batch_size: prompts at a time, which bounds memory.

  Returns:
    Texts without thoughts, `[n]` for one prompt and `[P][n]` for a list.

  Raises:
    FileNotFoundError, ValueError: see `load`; or a setting is out of range, a
      prompt is malformed or blank, or does not fit the model's context.

  >>> prompt = 'Write a toast to the sea.'
  >>> replies = rlcw.sample(model, prompt, n=4, max_new_tokens=16)
  >>> [reply.finished for reply in replies]
  [False, False, False, False]
  """
  for name, value in (
    ('n', n),
    ('max_new_tokens', max_new_tokens),
    ('batch_size', batch_size),
  ):
    if type(value) is not int or value < 1:
      raise ValueError(f'{name}={value!r}; expected an integer of at least 1')
  whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
  if not whole or not 0 <= seed < 2**32:
    raise ValueError(f'seed={seed!r}; expected an integer from 0 to 2**32 - 1')
  sampler = make_sampler(temperature, top_k, top_p)
  one = forms.is_prompt(prompts)
  asked = [*map(forms.brief, [prompts] if one else forms.listed(prompts))]
  model = _model(model)
  chat = model.chat
  ids = [
    chat.encode_prompt(messages.messages(brief.request, model.system))
    for brief in asked
  ]
  lengths = {p: len(row) for p, row in enumerate(ids)}
  chat.check_context(
    {f'prompt {p}': length for p, length in lengths.items()}, max_new_tokens
  )
  settings = ConfigDict(
    {
      'batch_size': batch_size,
      'samples': n,
      'max_new_tokens': max_new_tokens,
      'seed': seed,
    }
  )
  replies: dict[int, list[Reply]] = {}
  for rows in batches.by_length(lengths, batch_size):
    with jax.set_mesh(model.mesh):
      rollout = generate.answer(model, ids, rows, sampler, settings)
    token, length, finished = jax.device_get(
      (rollout.token, rollout.length, rollout.finished)
    )
    for place, row in enumerate(rows):
      columns = zip(token[place], length[place], finished[place], strict=True)
      replies[row] = [
        Reply(chat.decode_reply(tokens[:end]), bool(ended))
        for tokens, end, ended in columns
      ]
  return replies[0] if one else [replies[row] for row in range(len(ids))]


# --- Check ------------------------------------------------------------------


@overload
def check(
  rules: Rules | Sequence[Rules],
  replies: Text,
  *,
  judge: JudgeModel | None = None,
) -> list[Verdict]: ...


@overload
def check(
  rules: Rules | Sequence[Rules],
  replies: Sequence[Text],
  *,
  judge: JudgeModel | None = None,
) -> list[list[Verdict]]: ...


@overload
def check(
  rules: Rules | Sequence[Rules],
  replies: Sequence[Sequence[Text]],
  *,
  judge: JudgeModel | None = None,
) -> list[list[list[Verdict]]]: ...


def check(rules: Any, replies: Any, *, judge: JudgeModel | None = None) -> Any:
  """Checks which rules replies keep, as training does.

  A thought before a reply is no part of it.  A reply that is cut off can keep
  every rule; in training it counts as a violation all the same.

  Args:
    rules: a brief, or rules alone as {id: arguments}; or a list of them.
    replies: a text, a list of texts, or a list of lists (see the module).
    judge: answers demands (`soft:demand`), which no program can check: the
      `model` of `judge`.

  Returns:
    For each reply a `Verdict` per rule, nested like `replies`.

  Raises:
    ValueError: a rule is unknown, its arguments do not fit, `rules` and
      `replies` differ in length, or no demand got a verdict; or see `judge`.

  >>> rules = {'length:words': {'at_most': 4}, 'punctuation:no_comma': {}}
  >>> [verdict.kept for verdict in rlcw.check(rules, 'To rain, wind and tin.')]
  [False, False]
  """
  asked = forms.match(rules, replies, forms.rules)
  pairs = asked.rows()
  if judge is None or not pairs:
    follow = [[brief.follow(text) for text in group] for brief, group in pairs]
  else:
    briefs, groups = zip(*pairs, strict=True)
    question = Question('demand', _language(briefs), sys.maxsize)
    with _judge(judge, len(pairs)) as model:
      follow = questions.follow(model, question, briefs, groups)
    answers = [
      verdicts[index]
      for brief, found in zip(briefs, follow, strict=True)
      for index in brief.demands
      for verdicts in found
    ]
    if answers and answers == [None] * len(answers):
      raise ValueError(f'no demand got a verdict: {_cause(model)}')
  return asked.join(
    _verdicts(brief, kept)
    for (brief, _), group in zip(pairs, follow, strict=True)
    for kept in group
  )


def _verdicts(brief: Brief, follow: Sequence[bool | None]) -> list[Verdict]:
  rules = zip(brief.instruction_id_list, brief.rules, follow, strict=True)
  return [Verdict(rule, text, kept) for rule, text, kept in rules]


# --- Score ------------------------------------------------------------------


@overload
def score(
  model: RewardModel | str | Path, prompts: Prompts, replies: Text
) -> float: ...


@overload
def score(
  model: RewardModel | str | Path, prompts: Prompts, replies: Sequence[Text]
) -> list[float]: ...


@overload
def score(
  model: RewardModel | str | Path,
  prompts: Prompts,
  replies: Sequence[Sequence[Text]],
) -> list[list[float]]: ...


def score(model: RewardModel | str | Path, prompts: Any, replies: Any) -> Any:
  """Scores the writing of replies by a reward model, as training does.

  A blank reply gets the least score of its list.  If all are blank, they get
  the lowest score of the training replies, NaN where the model has none.

  Args:
    model: as `load(…, reward=True)` returns or takes it.  Load it once for
      several calls.
    prompts: a prompt, or a list of them.
    replies: a text, a list of texts, or a list of lists (see the module).

  Returns:
    Floats, nested like `replies`.  The unit of a `reward_model` run is the
    standard deviation over its training replies; 0 is their mean.

  Raises:
    FileNotFoundError, ValueError: see `load`; or a prompt is malformed, or
      `prompts` and `replies` differ in length.

  >>> scores = rlcw.score(taste, prompt, replies)
  >>> best = replies[scores.index(max(scores))]
  """
  if isinstance(model, LanguageModel):
    raise ValueError(
      f'{model.source} is no reward model; expected one of load(…, reward=True)'
    )
  asked = forms.match(prompts, replies, forms.brief)
  if not isinstance(model, RewardModel):
    model = load(model, reward=True)
  pairs, mesh = asked.rows(), model.decoder.mesh
  size = round_up_groups(min(_BATCH, len(pairs)), mesh)
  found: list[np.ndarray] = []
  for first in range(0, len(pairs), max(size, 1)):
    part = pairs[first : first + size]
    # Filled with repeated prompts, so that batches split over the devices.
    filled = [*itertools.islice(itertools.cycle(part), size)]
    texts = [group for _, group in filled]
    with jax.set_mesh(mesh):
      score_PxG = text_scores.score(
        model,
        [brief.request for brief, _ in filled],
        texts,
        np.array([[text.finished for text in group] for group in texts]),
      )
    found += [*score_PxG[: len(part)]]
  scores = iter(np.concatenate([[], *found]))
  # The blank ones by the lists that were given, not by the batches.
  return asked.join(
    float(value)
    for group in asked.groups
    if group
    for value in text_scores.floor_blank_replies(
      np.array([[next(scores) for _ in group]]), [group], model.floor
    )[0]
  )


# --- Judge ------------------------------------------------------------------


@overload
def judge(
  model: JudgeModel,
  prompts: Prompts,
  replies: Text,
  *,
  principles: str | Path = '',
  language: str = '',
) -> Judgement: ...


@overload
def judge(
  model: JudgeModel,
  prompts: Prompts,
  replies: Sequence[Text],
  *,
  principles: str | Path = '',
  language: str = '',
) -> list[Judgement]: ...


@overload
def judge(
  model: JudgeModel,
  prompts: Prompts,
  replies: Sequence[Sequence[Text]],
  *,
  principles: str | Path = '',
  language: str = '',
) -> list[list[Judgement]]: ...


def judge(
  model: JudgeModel,
  prompts: Any,
  replies: Any,
  *,
  principles: str | Path = '',
  language: str = '',
) -> Any:
  """Judges replies Good or Bad by principles.

  Replies are untrusted: they are quoted, and cannot instruct the judge.

  Args:
    model: a language model as `load` returns or takes it, which answers by the
      probabilities of the two words, without a reason; or the settings of an
      OpenAI-compatible server, such as {'url': 'http://…/v1', 'model': NAME}:
      those of `judge.endpoint` in a config, and max_new_tokens, temperature,
      votes and cache of `judge`.
    prompts: a prompt, or a list of them.
    replies: a text, a list of texts, or a list of lists (see the module).
    principles: their text, the path of a file of them, or `@NAME` for some that
      the package ships; by default `@principles_writing_en`, or `…_zh`.
    language: of the question, en or zh; by default zh if all briefs are.

  Returns:
    A `Judgement` for each reply, nested like `replies`.

  Raises:
    FileNotFoundError: there is no such model, or no such file of principles.
    ValueError: a setting or a prompt is malformed, `prompts` and `replies`
      differ in length, or no reply got an answer.

  >>> found = rlcw.judge('JUDGE', prompt, replies)
  >>> all(0 < each.p_good < 1 for each in found)
  True
  """
  asked = forms.match(prompts, replies, forms.brief)
  pairs = asked.rows()
  language = language or _language(asked.prompts)
  if language not in questions.LANGUAGES:
    raise ValueError(
      f'language={language!r}; expected one of {questions.LANGUAGES}'
    )
  rules = _principles(principles or f'@principles_writing_{language}')
  if not pairs:
    return asked.join([])
  with _judge(model, len(pairs)) as judge_model:
    found = questions.judge(
      judge_model,
      Question('judge', language, sys.maxsize, rules),
      [brief.text for brief, _ in pairs],
      [group for _, group in pairs],
    )
  if not found.valid.any():
    raise ValueError(f'no reply got a verdict: {_cause(judge_model)}')
  reasons = itertools.chain(*found.reason)
  return asked.join(
    Judgement(float(p_good), reason)
    for p_good, reason in zip(found.first.reshape(-1), reasons, strict=True)
  )


def _cause(judge: Judge) -> str:
  """Cause of a judge's silence, in words."""
  return trouble_of(judge).text or 'no cause is known'


def _language(briefs: Sequence[Brief]) -> str:
  """Language to ask about briefs in, which a model of either can answer."""
  return 'zh' if {brief.language for brief in briefs} == {'zh'} else 'en'


def _principles(given: str | Path) -> str:
  """Reads principles that are given as their text, a path, or `@NAME`."""
  text = str(given)
  # A path that is mistyped must not become the text to judge by.
  is_path = '\n' not in text and text.endswith(('.md', '.txt'))
  if isinstance(given, Path) or is_path or text.startswith('@'):
    return questions.read(text)
  if not text.strip():
    raise ValueError('principles are blank; expected a text')
  return text.strip()


@contextlib.contextmanager
def _judge(model: JudgeModel, rows: int) -> Iterator[Judge]:
  """Makes a judge for questions about the replies to some prompts."""
  if isinstance(model, Mapping):
    settings: Any = ConfigDict(factory.judge_settings())
    names = {*settings.endpoint} | _OF_ANSWERS
    if not {'url', 'model'} <= {*model} <= names:
      raise ValueError(
        f'the settings of a server are {sorted(model)}; expected url and '
        f'model, and no others than {sorted(names)}'
      )
    try:
      for name, value in model.items():
        node, place = (
          (settings, 'judge')
          if name in _OF_ANSWERS
          else (settings.endpoint, 'judge.endpoint')
        )
        ranges.check_value('judge', f'{place}.{name}', value)
        node[name] = value
    except TypeError as error:
      raise ValueError(f'the settings of a server: {error}') from None
    # No mesh: a server needs none of this machine's devices, which another
    # library may be using.
    nowhere: Any = None
    made = factory.make_judge(settings, nowhere)
    assert made is not None  # There is a URL.
    yield made
    return
  loaded = _model(model)
  size = round_up_groups(min(_BATCH, rows), loaded.mesh)
  with jax.set_mesh(loaded.mesh):
    yield LogprobJudge(loaded, size)


def _model(model: Any) -> LanguageModel:
  """Returns a language model, loaded if it is named."""
  if isinstance(model, LanguageModel):
    return model
  if not isinstance(model, str | Path):
    raise ValueError(
      f'{type(model).__name__} is no language model; expected one of load(…), '
      'or a path or Hub id'
    )
  return load(model)
