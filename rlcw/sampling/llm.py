"""Any language model as one callable, ask(prompts) -> replies.

The model is either local (loaded here and sampled from) or at an
OpenAI-compatible endpoint; both have the same cache and usage counts.

Shape letters: P prompts, G samples of each, L prompt tokens, T reply tokens.
"""

import dataclasses
import functools
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import FieldReference

from rlcw import Config
from rlcw.data.batches import pad, power_of_two
from rlcw.models import formats, language_model, tokenizer
from rlcw.models.language_model import LanguageModel
from rlcw.runtime import console, processes
from rlcw.runtime.mesh import group_shards, over_groups
from rlcw.sampling import cache, endpoint, grammar
from rlcw.sampling import rollout as rollout_lib
from rlcw.sampling.cache import Call, Cut, Keep, Usage
from rlcw.sampling.grammar import Grammar
from rlcw.sampling.outage import Trouble
from rlcw.sampling.prompts import Ask, Schema
from rlcw.sampling.samplers import make_sampler


class Model(Protocol):
  """Interface of the language models that `make_ask` returns."""

  def ask(self, prompts: Sequence[str]) -> list[str | None]:
    """Returns a reply to each prompt, in order; None if the model gave none.

    Thoughts are no part of a reply.  One that is not whole is a `cache.Cut`.  A
    prompt that occurs n times gets n samples.
    """
    ...

  def asking(self, schema: Schema) -> Ask:
    """Returns an `ask` whose replies are constrained to a schema if possible.

    Callers must still validate the replies.
    """
    ...

  def usage(self) -> dict[str, float]:
    """Returns the cumulative counts, the fields of `cache.Usage`."""
    ...

  def trouble(self) -> Trouble:
    """Returns the last reason for a missing reply."""
    ...


def llm_settings(**changes: Any) -> dict[str, Any]:
  """Returns the settings that name a language model.

  It is loaded here, or stands behind an OpenAI-compatible endpoint.

  Args:
    **changes: values other than the defaults.
  """
  settings = (
    dict(
      model='',  # loaded here: folder, GGUF file, Hub id or workdir
      endpoint=dict(  # used in place of `model` if it has a url
        url='',  # up to and including /v1
        model='',  # the server's name of it
        schemas=False,  # the server can constrain answers to a JSON schema
        # environment variable with the API key; it may be unset
        key_variable='OPENAI_API_KEY',
        concurrency=16,  # requests at a time
        timeout=120.0,  # seconds
        # after these there is no reply: 4 last about 7 s, 14 over a minute
        retries=4,
        prices=(0.0, 0.0),  # per million prompt and completion tokens
      ),
      # 0: greedy.  An endpoint takes None too, for both: the server's default.
      temperature=0.7,
      max_new_tokens=512,  # of a reply
      system='',  # system message; '': none, or the chat template's own
      cache='',  # an SQLite file in which replies are cached
      batch_size=16,  # prompts that a model loaded here answers at once
      seed=0,  # of a model loaded here
    )
    | changes
  )
  # References of no type, so that the command line can give None.
  for name in ('temperature', 'max_new_tokens'):
    settings[name] = FieldReference(settings[name], field_type=object)
  return settings


def is_named(settings: Config) -> bool:
  """Returns whether `llm_settings` name a model."""
  return bool(settings.model or settings.endpoint.url)


def check_named(settings: Config, node: str = '') -> None:
  """Raises ValueError if `llm_settings`, those of a node, name no model."""
  if not is_named(settings):
    of = f'{node}.' if node else ''
    raise ValueError(
      f"{of}model='' and {of}endpoint.url='': expected one of them to name a "
      'language model'
    )


def make_endpoint(settings: Config) -> 'EndpointModel':
  """Returns the model behind `settings.endpoint.url`.

  Raises:
    ValueError: a setting is out of range.
  """
  fields = settings.endpoint.to_dict()
  schemas = fields.pop('schemas')
  server = endpoint.Endpoint(
    **fields,
    temperature=settings.temperature,
    max_new_tokens=settings.max_new_tokens,
    cache=settings.cache,
    # absent in runs of earlier versions
    system=settings.get('system', ''),
  )
  return EndpointModel(server, schemas)


def make_ask(
  settings: Config, mesh: Mesh, base: LanguageModel | None = None
) -> Model:
  """Returns the model that `llm_settings` name.

  Args:
    settings: as of `llm_settings`.
    mesh: the mesh for a model that is loaded here.
    base: a loaded model, used if it is the one named.

  Raises:
    ValueError: no model is named, or a setting is out of range.
    FileNotFoundError: there is no such model.
  """
  if settings.endpoint.url:
    return make_endpoint(settings)
  check_named(settings)
  return LocalModel(language_model.reuse(settings.model, mesh, base), settings)


class EndpointModel:
  """A model at an endpoint.

  Args:
    server: the endpoint.
    schemas: whether it supports `response_format` with a JSON schema.
  """

  def __init__(self, server: endpoint.Endpoint, schemas: bool = False):
    self.server, self.schemas = server, schemas

  def ask(self, prompts: Sequence[str]) -> list[str | None]:
    """Implements `Model.ask`."""
    return self.server.ask(prompts)

  def asking(self, schema: Schema) -> Ask:
    """Implements `Model.asking`; unconstrained without `schemas`."""
    if not self.schemas:
      return self.ask
    json_schema = schema.model_json_schema()
    return lambda prompts: self.server.ask(prompts, json_schema)

  def usage(self) -> dict[str, float]:
    """Implements `Model.usage`."""
    return self.server.usage.as_dict()

  def trouble(self) -> Trouble:
    """Implements `Model.trouble`."""
    return self.server.trouble


class LocalModel:
  """A model loaded in this process; each prompt is one user message.

  A reply is a function of the seed, the prompt and the sample's index among the
  replies to that prompt.  It depends neither on the other prompts of a call nor
  on their order.

  Args:
    model: any language model.
    settings: see `llm_settings`.

  Raises:
    ValueError: a setting is invalid, the context has no room for a prompt
      beside `max_new_tokens`, or the cache cannot be opened.
  """

  def __init__(self, model: LanguageModel, settings: Config):
    for name in ('max_new_tokens', 'batch_size'):
      if type(settings[name]) is not int or settings[name] < 1:
        raise ValueError(f'{name}={settings[name]!r}; expected 1 or more')
    if type(settings.temperature) not in (int, float):
      raise ValueError(
        f'temperature={settings.temperature!r}; expected a number of 0 or more'
      )
    self.model, self.settings = model, settings
    self.sampler = make_sampler(settings.temperature)
    # Everything that a reply depends on besides its prompt.
    names = 'temperature', 'max_new_tokens', 'seed'
    digest = formats.digest(model.source) if settings.cache else model.source
    self.identity = [digest, *(settings[name] for name in names)]
    self.system = settings.get('system', '')
    if self.system:
      self.identity.append(self.system)
    language_model.note_system(model, self.system, 'its setting system')
    self._usage, self._lock = Usage(), threading.Lock()
    self._trouble = Trouble()
    self._check_context('')
    # Opened once now, so that an invalid file fails before hours of work.
    with cache.opened(settings.cache):
      pass

  def usage(self) -> dict[str, float]:
    """Implements `Model.usage`.

    The tokens of a prompt count once for all its samples, as one prefill
    serves them all.
    """
    return dataclasses.asdict(self._usage)

  def trouble(self) -> Trouble:
    """Implements `Model.trouble`: the last prompt that its context refused."""
    return self._trouble

  def ask(self, prompts: Sequence[str]) -> list[str | None]:
    """Implements `Model.ask`; an empty reply counts as none.

    A prompt that does not fit the context gets no reply, as from a server.
    """
    return self._replies(prompts, self.identity, None)

  def asking(self, schema: Schema) -> Ask:
    """Implements `Model.asking`: replies always fit the schema.

    The maximal lengths of texts are the exception (`grammar.of_schema`).

    Raises:
      ValueError: the shortest valid answer exceeds `max_new_tokens`.
    """
    json_schema = schema.model_json_schema()
    reply_grammar = grammar.of_schema(
      json_schema,
      self.model.chat,
      self.model.config.vocab_size,
      self.settings.max_new_tokens,
    )
    # A constrained reply differs from an unconstrained one to the same prompt.
    identity = [*self.identity, json_schema]
    return lambda prompts: self._replies(prompts, identity, reply_grammar)

  def _replies(
    self,
    prompts: Sequence[str],
    identity: list[Any],
    reply_grammar: Grammar | None,
  ) -> list[str | None]:
    # Threads would compete for the device's memory, and for `_usage`.
    with self._lock:
      return cache.replies(
        self.settings.cache,
        identity,
        prompts,
        self._usage,
        functools.partial(self._fetch, reply_grammar),
      )

  def _fetch(
    self, reply_grammar: Grammar | None, calls: Mapping[str, Call], keep: Keep
  ) -> None:
    """Samples replies in batches of prompts of similar length."""
    keys_by_prompt: dict[str, dict[int, str]] = {}  # prompt -> sample -> key
    for key, call in calls.items():
      keys_by_prompt.setdefault(call.prompt, {})[call.sample] = key
    # (L, G) -> rows.  Each shape is a compilation, so L is a power of two.
    batches: dict[tuple[int, int], list[tuple[str, list[int]]]] = {}
    for prompt, keys in keys_by_prompt.items():
      try:
        ids = self._check_context(prompt)
      except ValueError as error:
        if not self._trouble.text:
          console.notice(f'no reply to prompts like this one: {error}')
        self._trouble = Trouble(str(error), refused=True)
        for key in keys.values():
          keep(key, None)
        continue
      # Samples 0 to the greatest missing one are drawn, even if some of them
      # are cached: the index in the group is part of the random key.
      shape = power_of_two(len(ids)), max(keys) + 1
      batches.setdefault(shape, []).append((prompt, ids))
    size = self.settings.batch_size
    for (width, group_size), rows in sorted(batches.items()):
      for first in range(0, len(rows), size):
        processes.stop_alone()
        part = rows[first : first + size]
        replies = self._sample(part, width, group_size, reply_grammar)
        # Not strict: the batch may be filled up with repeated rows.
        for (prompt, _), group in zip(part, replies, strict=False):
          for sample, key in keys_by_prompt[prompt].items():
            keep(key, group[sample])

  def _check_context(self, prompt: str) -> list[int]:
    """Token ids of a prompt; ValueError if they leave a reply no room."""
    ids, limit = self._encode(prompt), self.settings.max_new_tokens
    self.model.chat.check_context({f'{prompt[:40]!r}': len(ids)}, limit)
    return ids

  def _encode(self, prompt: str) -> list[int]:
    # Prompts quote untrusted text: '<|im_end|>' in it must not end the turn.
    opening, closing = self.model.chat.turns(self.system)
    return (
      opening
      + tokenizer.encode_untrusted(self.model.tokenizer, prompt)
      + closing
    )

  def _sample(
    self,
    rows: Sequence[tuple[str, list[int]]],
    width: int,
    group_size: int,
    reply_grammar: Grammar | None,
  ) -> Iterator[list[str | None]]:
    """Samples one batch.

    Args:
      rows: prompts and their ids.
      width: L.
      group_size: G.
      reply_grammar: constrains the replies; None for no constraint.

    Yields:
      G replies for each row, then for the repeated rows of the padding.
    """
    shards = group_shards(self.model.mesh)
    # P is 4, 8, 16, … or the batch size: each P is a compilation.
    size = max(4, 1 << (len(rows) - 1).bit_length())
    size = min(size, self.settings.batch_size)
    size = -(-size // shards) * shards  # a multiple of the shards
    # Padded with repeated rows, because the prefill needs lengths of 1 or more.
    part = [rows[i % len(rows)] for i in range(size)]
    brief_id_P = np.array([_prompt_id(prompt) for prompt, _ in part], np.uint32)
    arrays = (*pad([ids for _, ids in part], width), brief_id_P)
    rollout = rollout_lib.sample(
      self.model.params,
      *jax.device_put(arrays, over_groups(self.model.mesh)),
      self.sampler,
      self.settings.seed,
      0,  # step
      reply_grammar,
      config=self.model.config,
      group_size=group_size,
      max_new_tokens=self.settings.max_new_tokens,
      eos=self.model.chat.eos_ids,
      stop=self.model.chat.stop_ids,
    )
    token, length, finished = jax.device_get(
      (rollout.token, rollout.length, rollout.finished)
    )
    # The padding is not counted.
    self._usage.requests += len(rows) * group_size
    self._usage.prompt_tokens += sum(len(ids) for _, ids in rows)
    self._usage.completion_tokens += int(length[: len(rows)].sum())
    for ids_GxT, length_G, finished_G in zip(
      token, length, finished, strict=True
    ):
      yield [
        self._reply(ids[:n], whole)
        for ids, n, whole in zip(ids_GxT, length_G, finished_G, strict=True)
      ]

  def _reply(self, ids: np.ndarray, whole: bool) -> str | None:
    """Decodes a reply without its thoughts; None if nothing else is there."""
    # `turns` has closed the thought that a template may open.
    reply = self.model.chat.decode_reply(ids, thinking=False)
    return Cut(reply) if reply and not whole else reply or None


def _prompt_id(prompt: str) -> int:
  """Returns a 32-bit hash of a prompt, for the random keys."""
  # A collision is harmless: two different prompts share their randomness.
  digest = hashlib.blake2b(
    tokenizer.valid_unicode(prompt).encode(), digest_size=4
  )
  return int.from_bytes(digest.digest())
