"""Task `compare`: several finished runs and their base on held-out briefs.

A run's folder is named ARM-SEED; runs of one arm differ by their seed alone.
All answer the same briefs with the same random keys, and their replies are
scored by what training used and by what it never saw: a reward model on other
data or another decoder, and a judge.  What has been answered is kept in the
workdir, so that runs can be added as they finish.
"""

import glob
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlcw import Config
from rlcw.data import datasets
from rlcw.evaluation import heldout, stats
from rlcw.models import language_model, lora
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import reward_model
from rlcw.rewards.briefs import Brief, load_briefs
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.questions import Judge
from rlcw.rewards.reward_model import RewardModel
from rlcw.rewards.scoring import Scorer
from rlcw.runtime import metrics
from rlcw.runtime.files import atomic, json_line
from rlcw.runtime.mesh import make_mesh, round_up_groups, with_mesh
from rlcw.runtime.settings import read as read_settings
from rlcw.tasks.compare import arms, page

BASE = 'base'
# What decides how a held-out reply comes about, and what it is worth.
ALIKE = (
  'model',
  'briefs',
  'language',
  'temperature',
  'max_new_tokens',
  'writing',
  'reward_model',
  'verifiers',
)
# Replies to each brief that a judge reads: it is the dearest scorer.
JUDGED_PER_BRIEF = 1
# What may tell one arm from another.
MIXING = 'mixing', 'advantage_scale', 'seed'


class Scorers(NamedTuple):
  """All that looks at replies."""

  scorer: Scorer  # as in training
  unseen: RewardModel  # training knew nothing of it
  panel: Judge | None  # nor of this


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Answers, measures and shows; returns the summary."""
  runs = find(config.runs)
  settings = {name: read_settings(folder) for name, folder in runs.items()}
  trained = next(iter(settings.values()))
  notes = differences(settings)
  base = language_model.load(trained.model, make_mesh(**config.mesh))
  eyes = Scorers(
    Scorer(base, trained),
    reward_model.load(config.unseen, base),
    factory.make_judge(config.judge, base.mesh, base),
  )
  briefs = load_briefs(
    trained.briefs, split='heldout', language=trained.language
  )
  folder = workdir / 'replies'
  folder.mkdir(exist_ok=True)
  replies, features = {}, {}
  for name in (BASE, *runs):
    file = folder / f'{name}.jsonl'
    if not is_answered(file, runs.get(name)):
      model = base if name == BASE else restore(runs[name], base)
      answered = heldout.answer(model, eyes.scorer, briefs, trained, config)
      features_PxGxD = read(answered, briefs, eyes, config)
      np.save(file.with_suffix('.npy'), features_PxGxD.astype(np.float16))
      if eyes.panel is not None:
        judge(eyes.panel, answered, replies.get(BASE), briefs, config)
      write(file, briefs, answered)
    replies[name] = [line['replies'] for line in datasets.read_jsonl(file)]
    features[name] = np.load(file.with_suffix('.npy')).astype(np.float32)
  table = arms.measure(
    replies,
    features,
    [brief.instruction_id_list for brief in briefs],
    trained.language,
    config.best_of,
  )
  for told in table['arms'].values():
    told['numbers']['raised'] = metrics.mean(
      [
        arms.rewarded_violations(
          datasets.read_jsonl(runs[name] / 'rollouts.jsonl')
        )
        for name in told['runs']
        if name in runs
      ]
    )
  summary = {
    'briefs': len(briefs),
    'replies_per_brief': config.replies_per_brief,
    'steps': trained.steps,
    'notes': notes,
    'scorers': scorer_accuracy(eyes, trained, config),
    'benchmark': benchmark(config.benchmark),
    'warnings': {name: warnings(folder) for name, folder in runs.items()},
    **table,
  }
  histories = {
    name: datasets.read_jsonl(path / 'metrics.jsonl')
    for name, path in runs.items()
  }
  page.write(workdir, summary, replies, briefs, histories)
  return summary


def find(pattern: str) -> dict[str, Path]:
  """The finished runs that a pattern names, by the names of their folders.

  Raises:
    ValueError: there is none, two have one name, or a name does not end in a
      seed or is the base's.
  """
  folders = [Path(path) for path in sorted(glob.glob(pattern))]
  done: dict[str, Path] = {}
  for folder in folders:
    if not (folder / 'summary.json').exists():
      continue
    if read_settings(folder).get('task') != 'grpo':
      continue
    arm, _, seed = folder.name.rpartition('-')
    if not seed.isdecimal() or arm in ('', BASE):
      raise ValueError(
        f'{folder}: the name is not ARM-SEED, as in rlmr-0, with another ARM '
        f'than {BASE}'
      )
    if folder.name in done:
      raise ValueError(f'{done[folder.name]} and {folder} have one name')
    done[folder.name] = folder
  if not done:
    raise ValueError(
      f'runs={pattern!r}: no finished run of grpo among {len(folders)} folders'
    )
  return done


def is_answered(file: Path, run: Path | None) -> bool:
  """Whether replies are there, and no older than the run that they are of."""
  if run is None or not file.exists():
    return file.exists()
  return (run / 'summary.json').stat().st_mtime <= file.stat().st_mtime


def warnings(folder: Path) -> list[str] | None:
  """What a run's monitors said; None where an earlier version had none."""
  told = json.loads((folder / 'summary.json').read_text('utf-8'))
  found = told.get('warnings')
  return found and [f'step {w["step"]}: {w["text"]}' for w in found]


def differences(settings: dict[str, Config]) -> list[str]:
  """What differs between runs beside their mixing and seed, in words.

  A setting that a run of an earlier version lacks is no difference.

  Raises:
    ValueError: it makes a comparison meaningless.
  """
  first, *others = settings
  notes = []
  for name in others:
    for key in sorted({*settings[first]} & {*settings[name]} - {*MIXING}):
      here, there = settings[first][key], settings[name][key]
      if here == there:
        continue
      said = f'{key}: {here!r} in {first}, {there!r} in {name}'
      if key in ALIKE:
        raise ValueError(f'runs cannot be compared, as they differ in {said}')
      notes.append(said)
  return notes


def restore(folder: Path, base: LanguageModel) -> LanguageModel:
  """The policy that a run ended with."""
  after, learned = language_model.restore(folder, base)
  return after._replace(params=lora.join(learned, base.params))


def read(
  answered: list[list[dict[str, Any]]],
  briefs: list[Brief],
  eyes: Scorers,
  config: Config,
) -> np.ndarray:
  """Adds the other reward model's score of each reply as `unseen`.

  Returns:
    The features `[P, G, D]` that it is read from.
  """
  mesh = eyes.unseen.decoder.mesh
  size, found = round_up_groups(config.batch_size, mesh), []
  for first in metrics.progress('read', 0, len(briefs), 'brief', size):
    # the last pass repeats some briefs, so that shapes repeat
    rows = np.arange(first, first + size) % len(briefs)
    found += [
      *reward_model.read_texts(
        eyes.unseen,
        [briefs[row].text for row in rows],
        [[reply['text'] for reply in answered[row]] for row in rows],
        np.array([[reply['finished'] for reply in answered[r]] for r in rows]),
      )
    ]
  features_PxGxD = np.stack(found[: len(briefs)])
  head = eyes.unseen.head
  score_PxG = features_PxGxD @ np.asarray(head.weight) + np.asarray(head.bias)
  for group, score_G in zip(answered, score_PxG, strict=True):
    for reply, score in zip(group, score_G, strict=True):
      reply['unseen'] = score
  return features_PxGxD


def judge(
  panel: Judge,
  answered: list[list[dict[str, Any]]],
  theirs: list[list[dict[str, Any]]] | None,
  briefs: list[Brief],
  config: Config,
) -> None:
  """Adds what a judge says of the first JUDGED_PER_BRIEF replies.

  `good` is its probability of Good, and `won` 1, 0 or, where its two orders
  disagree, half against the base's reply, where there is one.
  """
  count = JUDGED_PER_BRIEF
  prompts = [brief.text for brief in briefs]
  ours = [[reply['text'] for reply in group[:count]] for group in answered]
  question = factory.make_question('judge', config.judge)
  good_PxG = questions.judge(panel, question, prompts, ours).first
  won_PxG = np.full_like(good_PxG, np.nan)
  if theirs is not None:
    won_N = questions.compare(
      panel,
      factory.make_question('compare', config.judge),
      [prompt for prompt in prompts for _ in range(count)],
      [text for group in ours for text in group],
      [reply['text'] for group in theirs for reply in group[:count]],
    )
    won_PxG = won_N.reshape(good_PxG.shape)
  for p, group in enumerate(answered):
    for g, reply in enumerate(group[:count]):
      reply |= {'good': good_PxG[p, g], 'won': won_PxG[p, g]}


def write(
  file: Path, briefs: list[Brief], answered: list[list[dict[str, Any]]]
) -> None:
  """One line per brief, the file whole or not at all."""
  with atomic(file) as partial, partial.open('wb') as out:
    for brief, group in zip(briefs, answered, strict=True):
      out.write(json_line({'brief_id': brief.id, 'replies': group}))


def scorer_accuracy(
  eyes: Scorers, trained: Config, config: Config
) -> dict[str, float]:
  """How often each scorer is right on the held-out preferences.

  A tie counts half.
  """
  pairs = datasets.load_preferences(
    config.preferences, split='heldout', language=trained.language
  )
  prompts = [pair.prompt for pair in pairs]
  texts = [[pair.chosen, pair.rejected] for pair in pairs]
  told = {}
  size = round_up_groups(config.batch_size, eyes.unseen.decoder.mesh)
  right = []
  for first in range(0, len(pairs), size):
    rows = np.arange(first, first + size) % len(pairs)
    score_Px2 = reward_model.score_texts(
      eyes.unseen,
      [prompts[row] for row in rows],
      [texts[row] for row in rows],
      np.ones((size, 2), bool),
    )
    right += [*stats.right(score_Px2)][: len(pairs) - first]
  told['unseen'] = np.mean(right)
  if eyes.panel is not None:
    question = factory.make_question('compare', config.judge)
    chosen, rejected = zip(*texts, strict=True)
    won = questions.compare(eyes.panel, question, prompts, chosen, rejected)
    told['judge'] = metrics.mean(won)
  return told


def benchmark(pattern: str) -> dict[str, dict[str, Any]]:
  """IFEval's four numbers of each arm, from folders of finished `verify` runs.

  `gain` is that of `prompt_strict` over base, prompt by prompt, as of
  `arms.paired_bootstrap`; where there is no base, None.

  Raises:
    ValueError: a folder holds something else, or other prompts than base.
  """
  found: dict[str, dict[str, Any]] = {}
  strict: dict[str, dict[Any, bool]] = {}
  files = sorted(glob.glob(f'{pattern}/summary.json')) if pattern else []
  for file in map(Path, files):
    told = json.loads(file.read_text('utf-8'))
    numbers = {k: v for k, v in told.items() if k.endswith(('strict', 'loose'))}
    if told.get('mode') != 'benchmark' or not numbers:
      raise ValueError(f'{file} is not of `verify` with mode=benchmark')
    found[file.parent.name] = numbers
    rows = datasets.read_jsonl(file.with_name('verdicts.jsonl'))
    if not all('key' in row for row in rows):
      raise ValueError(f'{file.parent}: a line without `key` is none of IFEval')
    strict[file.parent.name] = {
      row['key']: row['strict']['follow_all_instructions'] for row in rows
    }
  base = strict.get(BASE)
  for name, kept in strict.items():
    if base is not None and kept.keys() != base.keys():
      raise ValueError(f'{name} of {pattern} answers other prompts than {BASE}')
    found[name]['gain'] = base and stats.paired_bootstrap(
      np.array([[base[key]] for key in base], float),
      np.array([[kept[key]] for key in base], float),
      seed=0,
    )
  return found
