"""Any language model as one callable, ask(prompts) -> replies.

It is loaded here and sampled from, or stands behind an OpenAI-compatible
endpoint; both have the same cache and the same accounts.  `ask_json` puts
questions that are answered in JSON.

Letters: P prompts, G samples of each, L a prompt's tokens.
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
from ml_collections import ConfigDict

from rlcw import Config
from rlcw.data.batches import pad, power_of_two
from rlcw.models import language_model, tokenizer
from rlcw.models.language_model import LanguageModel
from rlcw.runtime.mesh import group_shards, over_groups
from rlcw.sampling import cache, endpoint, grammar
from rlcw.sampling import rollout as rollout_lib
from rlcw.sampling.cache import Call, Keep, Usage
from rlcw.sampling.grammar import Grammar
from rlcw.sampling.prompts import Ask, Schema
from rlcw.sampling.rollout import make_sampler


class Model(Protocol):
  """What `make_ask` makes."""

  def ask(self, prompts: Sequence[str]) -> list[str | None]:
    """A reply to each prompt, in their order; None where none could be had.

    A prompt that is given several times gets as many samples.
    """
    ...

  def asking(self, schema: Schema) -> Ask:
    """The same, where replies are held to a schema as far as can be."""
    ...

  def usage(self) -> dict[str, float]:
    """What has been done so far: the fields of `cache.Usage`."""
    ...


def llm_settings(**changes: Any) -> dict[str, Any]:
  """Returns the settings that name a language model.

  It is loaded here, or stands behind an OpenAI-compatible endpoint.

  Args:
    **changes: values other than the defaults.
  """
  return (
    dict(
      model='',  # loaded here: folder, GGUF file, Hub id or workdir
      endpoint=dict(  # used in place of `model` if it has a url
        url='',  # up to and including /v1
        model='',  # the server's name of it
        schemas=False,  # the server can constrain answers to a JSON schema
        key_variable='OPENAI_API_KEY',  # environment variable; may be unset
        concurrency=16,  # requests at a time
        timeout=120.0,  # seconds
        retries=4,  # after these there is no reply; 14 take a minute
        prices=(0.0, 0.0),  # of a million tokens read, and written
      ),
      temperature=0.7,  # 0: greedy
      max_new_tokens=512,
      cache='',  # an SQLite file of replies that need not be made again
      batch_size=16,  # prompts that a model loaded here answers at once
      seed=0,  # of a model loaded here
    )
    | changes
  )


def make_endpoint(settings: Config) -> 'EndpointModel':
  """Returns the model behind `settings.endpoint.url`.

  Raises:
    ValueError: a setting is out of range.
  """
  node = ConfigDict(settings.endpoint.to_dict())
  node.temperature = settings.temperature
  node.max_tokens = settings.max_new_tokens
  node.cache = settings.cache
  del node.schemas
  return EndpointModel(endpoint.from_config(node), settings.endpoint.schemas)


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
  if not settings.model:
    raise ValueError(
      "model='' and endpoint.url='': expected one of them to name a language "
      'model'
    )
  return LocalModel(language_model.reuse(settings.model, mesh, base), settings)


class EndpointModel:
  """A model behind a URL.

  Args:
    server: it.
    schemas: whether it understands `response_format` with a JSON schema.
  """

  def __init__(self, server: endpoint.Endpoint, schemas: bool = False):
    self.server, self.schemas = server, schemas

  def ask(self, prompts: Sequence[str]) -> list[str | None]:
    """As `Model.ask`."""
    return self.server.ask(prompts)

  def asking(self, schema: Schema) -> Ask:
    """As `Model.asking`, if the server can."""
    if not self.schemas:
      return self.ask
    form = schema.model_json_schema()
    return lambda prompts: self.server.ask(prompts, form)

  def usage(self) -> dict[str, float]:
    """What has been done so far."""
    return self.server.usage.as_dict()


class LocalModel:
  """A model that is loaded here, each prompt one message of a user.

  A reply is a function of the seed, its prompt and its number among the
  replies to that prompt: neither the others of a call nor their order matter.

  Args:
    model: any policy.
    settings: of `make_ask`.
  """

  def __init__(self, model: LanguageModel, settings: Config):
    for name in ('max_new_tokens', 'batch_size'):
      if settings[name] < 1:
        raise ValueError(f'{name}={settings[name]!r}; legal: from 1 on')
    self.model, self.settings = model, settings
    self.method = make_sampler(settings.temperature)
    names = 'temperature', 'max_new_tokens', 'seed'
    self.identity = [model.source, *(settings[name] for name in names)]
    self._usage, self._turn = Usage(), threading.Lock()
    with cache.opened(settings.cache):
      pass  # a bad file is better refused now than after hours

  def usage(self) -> dict[str, float]:
    """What has been done so far; a prompt is read once for all its samples."""
    return dataclasses.asdict(self._usage)

  def ask(self, prompts: Sequence[str]) -> list[str | None]:
    """As `Model.ask`; what the model leaves empty is no reply."""
    return self._replies(prompts, self.identity, None)

  def asking(self, schema: Schema) -> Ask:
    """As `Model.asking`: no other token is ever drawn.

    Raises:
      ValueError: not even the shortest answer fits `max_new_tokens`.
    """
    form = schema.model_json_schema()
    rules = grammar.of_schema(
      form,
      self.model.tokenizer,
      self.model.config.vocab_size,
      self.settings.max_new_tokens,
    )
    identity = [*self.identity, form]
    return lambda prompts: self._replies(prompts, identity, rules)

  def _replies(
    self, prompts: Sequence[str], identity: list[Any], rules: Grammar | None
  ) -> list[str | None]:
    with self._turn:
      return cache.replies(
        self.settings.cache,
        identity,
        prompts,
        self._usage,
        functools.partial(self._fetch, rules),
      )

  def _fetch(
    self, rules: Grammar | None, calls: Mapping[str, Call], keep: Keep
  ) -> None:
    """Samples replies in passes of few shapes: prompts of about one length."""
    together: dict[str, dict[int, str]] = {}  # prompt, sample: key
    for key, call in calls.items():
      together.setdefault(call.prompt, {})[call.sample] = key
    batches: dict[tuple[int, int], list[tuple[str, list[int]]]] = {}
    for prompt, keys in together.items():
      ids = self._encode(prompt)
      shape = power_of_two(len(ids)), max(keys) + 1
      batches.setdefault(shape, []).append((prompt, ids))
    size = self.settings.batch_size
    for (width, group_size), rows in sorted(batches.items()):
      for first in range(0, len(rows), size):
        part = rows[first : first + size]
        replies = self._sample(part, width, group_size, rules)
        for (prompt, _), group in zip(part, replies, strict=False):
          for sample, key in together[prompt].items():
            keep(key, group[sample] or None)

  def _encode(self, prompt: str) -> list[int]:
    opening, closing = tokenizer.turns(self.model.tokenizer)
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
    rules: Grammar | None,
  ) -> Iterator[list[str]]:
    """Replies `[P][G]`; a pass is filled up to one of few sizes.

    Args:
      rows: prompts and their ids.
      width: L.
      group_size: G.
      rules: what replies have to fit, if anything.
    """
    shards = group_shards(self.model.mesh)
    size = max(4, 1 << (len(rows) - 1).bit_length())
    size = min(size, self.settings.batch_size)
    size = -(-size // shards) * shards  # which devices can split
    part = [rows[i % len(rows)] for i in range(size)]
    brief_id_P = np.array([_name(prompt) for prompt, _ in part], np.uint32)
    arrays = (*pad([ids for _, ids in part], width), brief_id_P)
    rollout = rollout_lib.sample(
      self.model.params,
      *jax.device_put(arrays, over_groups(self.model.mesh)),
      self.method,
      self.settings.seed,
      0,
      rules,
      config=self.model.config,
      group_size=group_size,
      max_new_tokens=self.settings.max_new_tokens,
      eos=tokenizer.eos_ids(self.model.tokenizer),
    )
    token, length = jax.device_get((rollout.token, rollout.length))
    self._usage.requests += len(rows) * group_size
    self._usage.prompt_tokens += sum(len(ids) for _, ids in rows)
    self._usage.completion_tokens += int(length[: len(rows)].sum())
    for ids_GxT, length_G in zip(token, length, strict=True):
      yield [
        tokenizer.decode(self.model.tokenizer, ids[:n])
        for ids, n in zip(ids_GxT, length_G, strict=True)
      ]


def _name(prompt: str) -> int:
  """An integer for the random keys; two prompts that share one share noise."""
  digest = hashlib.blake2b(
    tokenizer.valid_unicode(prompt).encode(), digest_size=4
  )
  return int.from_bytes(digest.digest())
