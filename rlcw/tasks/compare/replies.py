"""Replies of all models, sampled and scored once, and stored.

A comparison with more runs reuses those of the others.

Letters: P briefs, G replies to each, D features of a reply.
"""

import copy
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.data import datasets
from rlcw.evaluation import heldout, names
from rlcw.models import formats, language_model
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import plain, scoring
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import factory
from rlcw.runtime import console, inputs, processes
from rlcw.runtime.files import atomic, read_json, write_json, write_jsonl
from rlcw.runtime.settings import PATIENCE
from rlcw.sampling import outage
from rlcw.sampling.usage import Ledger
from rlcw.tasks.compare.arms import BASE, Replies
from rlcw.tasks.compare.runs import ANSWERED
from rlcw.tasks.compare.scorers import SILENCE, Scorers, rate


def sample(
  runs: dict[str, Path],
  base: LanguageModel,
  briefs: list[Brief],
  scorers: Scorers,
  trained: Config,
  config: Config,
  folder: Path,
  ledger: Ledger,
) -> tuple[Replies, dict[str, np.ndarray]]:
  """Samples the replies of the base and of every run, and scores them.

  Args:
    runs: their folders, by name.
    base: the model that they were trained from.
    briefs: P of them, alike for every model.
    scorers: all three.
    trained: the settings that replies are sampled and scored by.
    config: the settings of the task.
    folder: where replies are stored, and looked for.
    ledger: of the scorers' questions.

  Returns:
    The replies `[P][G]` of each, and in process 0 the features `[P, G, D]` of
    the reward model that training never used.
  """
  if processes.is_primary_process():
    folder.mkdir(exist_ok=True)
  shared = processes.from_primary(lambda: identity(briefs, trained, config))
  scores_of = plain.scorer_of(scorers.scorer, briefs, trained)
  replies: Replies = {}
  features: dict[str, np.ndarray] = {}
  file_of = names.file_names((BASE, *runs))
  for name in (BASE, *runs):
    file = folder / f'{file_of[name]}.jsonl'
    source = runs.get(name) or trained.model
    key = [*shared, processes.from_primary(lambda s=source: formats.digest(s))]
    # Only process 0 reads and writes the stored replies.
    if not processes.from_primary(
      lambda f=file, k=key: is_answered(f, k, len(briefs))
    ):
      model = base if name == BASE else language_model.beside(runs[name], base)
      answered = heldout.answer(model, scores_of, briefs, trained, config)
      # Frees its weights before the next model is loaded.
      del model
      outage.refuse_silence(SILENCE, scorers.scorer)
      # The base comes first, so that others can be compared with it.
      features_PxGxD = rate(
        answered, replies.get(BASE), briefs, scorers, config
      )
      ledger.save()
      if processes.is_primary_process():
        keep(file, key, briefs, answered, features_PxGxD)
    replies[name] = processes.from_primary(
      lambda f=file: heldout.check(briefs, stored(f))
    )
    if processes.is_primary_process():
      features[name] = np.load(file.with_suffix('.npy')).astype(np.float32)
  return replies, features


def identity(briefs: list[Brief], trained: Config, config: Config) -> list[str]:
  """Digests of all that stored replies depend on, but the model itself."""
  settings = {key: trained.get(key) for key in ANSWERED}
  scored = scoring.without_idle_judge(trained, briefs)
  if factory.has_judge(scored.judge):
    settings['judge'] = scored.judge
  code = {name: each['digest'] for name, each in inputs.code(trained).items()}
  asked = {
    key: config.get(key) for key in ('seed', 'replies_per_brief', 'judge')
  }
  if judge := asked['judge']:
    # With the default patience, as any other changes no reply.
    asked['judge'] = judge = copy.deepcopy(judge)
    default = factory.judge_settings()['endpoint']
    for name in default:
      if PATIENCE.fullmatch(f'endpoint.{name}'):
        judge.endpoint[name] = default[name]
  # Earlier versions computed in float32 alone.
  if trained.get('compute_dtype', 'float32') != 'float32':
    asked['compute_dtype'] = trained.compute_dtype
  # What scores the replies may be overwritten in place.
  judge_files = 'judge.model', 'judge.principles'
  read = inputs.contents(scored, ['reward_model', *judge_files])
  read += inputs.contents(config, judge_files)
  texts = [repr(briefs), repr(settings | code), repr(asked), repr(read)]
  return [
    *(hashlib.sha256(text.encode()).hexdigest() for text in texts),
    formats.digest(trained.model),
    formats.digest(config.unseen),
  ]


def is_answered(file: Path, key: list[str], count: int) -> bool:
  """Checks that replies to `count` briefs are stored, made of what `key` is of.

  Otherwise, such as after a run was continued or the base overwritten, all of
  the model's replies are sampled again.
  """
  try:
    stored = read_json(file.with_suffix('.json'))
    np.load(file.with_suffix('.npy'), mmap_mode='r')
    found = len(datasets.read_jsonl(file))
    if found != count:
      raise ValueError(f'{found} lines, expected {count}')
  except FileNotFoundError:
    return False
  except (OSError, ValueError, EOFError) as error:
    console.log(f'{file} is damaged, so it is made anew: {error}')
    return False
  if stored != {'key': key}:
    console.log(f'{file} is of another model or settings: it is made anew')
    return False
  return True


def stored(file: Path) -> list[list[dict[str, Any]]]:
  """Returns the replies `[P][G]` in a file of `keep`."""
  return [line['replies'] for line in datasets.read_jsonl(file)]


def keep(
  file: Path,
  key: list[str],
  briefs: list[Brief],
  answered: list[list[dict[str, Any]]],
  features_PxGxD: np.ndarray,
) -> None:
  """Stores replies, a line per brief, and their features, for `is_answered`."""
  # Else a kill could leave the key of earlier replies with these.
  file.with_suffix('.json').unlink(missing_ok=True)
  with atomic(file.with_suffix('.npy')) as partial, partial.open('wb') as out:
    # Half precision is enough: features are used for diversity only.
    np.save(out, features_PxGxD.astype(np.float16))
  groups = zip(briefs, answered, strict=True)
  write_jsonl(file, ({'brief_id': b.id, 'replies': g} for b, g in groups))
  # Written last, because it marks the replies as complete.
  write_json(file.with_suffix('.json'), {'key': key})
