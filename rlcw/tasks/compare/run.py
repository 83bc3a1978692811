"""Task `compare`: several finished runs and their base on held-out briefs.

A run's folder is named ARM-SEED; the runs of an arm differ only in their seed.

1. every model samples replies to the same briefs with the same random keys
2. replies are scored as in training, by a reward model that training never used
   (of other data or another decoder), and by a judge where one is configured
3. scored replies are stored in the workdir, so that a later comparison with
   more runs reuses them
4. `arms` computes the statistics, `page` writes the report
"""

import copy
import glob
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlcw import Config
from rlcw.data import datasets
from rlcw.data.messages import transcript
from rlcw.evaluation import heldout, intervals, names, stats
from rlcw.models import formats, language_model
from rlcw.models.language_model import LanguageModel, Placement
from rlcw.rewards import constraints, plain, reward_model, scoring, writing
from rlcw.rewards.briefs import Brief
from rlcw.rewards.constraints import IFBENCH, IFEVAL
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.questions import Judge
from rlcw.rewards.reward_model import RewardModel
from rlcw.rewards.scoring import Scorer
from rlcw.runtime import (
  console,
  inputs,
  metrics,
  processes,
  sums,
)
from rlcw.runtime.files import atomic, json_line, read_json, write_json
from rlcw.runtime.mesh import make_mesh, round_up_groups, with_mesh
from rlcw.runtime.runs import is_finished, is_run, unfinished
from rlcw.runtime.settings import FREE, PATIENCE, leaves
from rlcw.runtime.settings import read as read_settings
from rlcw.sampling import outage, usage
from rlcw.sampling.usage import Ledger
from rlcw.tasks.compare import arms, page
from rlcw.tasks.compare.arms import BASE
from rlcw.tasks.compare.logs import read_logs

_SILENCE = 'compare: the judge answered nothing'

# Settings that decide how replies to given briefs are sampled and scored.
_ANSWERED = (
  'model',
  'briefs',
  'language',
  'temperature',
  'max_new_tokens',
  'two_turns',
  'writing',
  'reward_model',
  'verifiers',
)
# Settings that decide which of a run's own briefs are held out.
_HELDOUT = 'heldout', 'extract_rules'
# Runs that differ in one of these cannot be compared; nor can those that differ
# in their judge, if it scores the replies.
ALIKE = *_ANSWERED, *_HELDOUT, 'system'
# Of these, what `compare` may name itself for runs that differ in it.
GIVEN = 'briefs', 'writing', 'reward_model'
# Replies to each brief that the judge reads; it is the slowest scorer.
JUDGED_PER_BRIEF = 1
# Settings in which arms are meant to differ.
MIXING = 'mixing', 'advantage_scale', 'seed'


class Scorers(NamedTuple):
  """The three scorers of held-out replies."""

  scorer: Scorer  # as in training
  unseen: RewardModel  # not used in training
  judge: Judge | None  # not used in training either; None if not configured


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Compares runs: samples, scores, computes statistics, writes the page.

  Returns:
    The summary in process 0; an empty dict in the others.

  Raises:
    ValueError: see `find`, `differences` and `benchmark`.
  """
  runs = find(config.runs)
  settings = {name: read_settings(folder) for name, folder in runs.items()}
  trained = heldout.computed_as(config, next(iter(settings.values())))
  # Configs of earlier versions do not have these settings.
  given = {key: config.get(key, '') for key in GIVEN}
  for key in ('writing', 'reward_model'):
    if given[key]:
      trained[key] = given[key]
      scoring.check(trained)
  unused = _HELDOUT if given['briefs'] else ()
  alike = [key for key in ALIKE if not given.get(key) and key not in unused]
  notes = differences(settings, alike)
  for each in (trained, *settings.values()):
    writing.check_unseen(config.unseen, each, 'unseen')
  # before the work that a spoiled file would waste
  logs = {name: read_logs(folder) for name, folder in runs.items()}
  placed = Placement(trained.compute_dtype, trained.attention)
  base = language_model.load(trained.model, make_mesh(**config.mesh), placed)
  primary = processes.is_primary_process()
  first = next(iter(runs.values()))
  briefs = heldout.load_briefs(given['briefs'], trained, base.system, first)
  check_judges(settings, trained, briefs)
  scorers = load_scorers(config, trained, base, workdir, briefs)
  meters = {'scorer': scorers.scorer.usage}
  if scorers.judge is not None:
    meters['judge'] = scorers.judge.usage
  ledger = Ledger(workdir, meters, scorers.scorer.shards.gather)
  folder = workdir / 'replies'
  if primary:
    folder.mkdir(exist_ok=True)
  shared = processes.from_primary(lambda: identity(briefs, trained, config))
  scores_of = plain.scorer_of(scorers.scorer, briefs, trained)
  replies, features = {}, {}
  file_of = names.file_names((BASE, *runs))
  for name in (BASE, *runs):
    file = folder / f'{file_of[name]}.jsonl'
    source = runs.get(name) or trained.model
    key = [*shared, processes.from_primary(lambda s=source: formats.digest(s))]
    # Only process 0 reads and writes the stored replies.
    if not processes.from_primary(
      lambda f=file, k=key: is_answered(f, k, len(briefs))
    ):
      begun = name == BASE
      model = base if begun else language_model.beside(runs[name], base)
      answered = heldout.answer(model, scores_of, briefs, trained, config)
      # Frees its weights before the next model is loaded.
      del model
      outage.refuse_silence(_SILENCE, scorers.scorer)
      # the base comes first in the loop, so others can be compared with it
      rate(file, answered, replies.get(BASE), briefs, scorers, config)
      ledger.save()
      # Written last, because it marks the replies as complete.
      write_json(file.with_suffix('.json'), {'key': key})
    replies[name] = processes.from_primary(lambda f=file: stored(f))
    if primary:
      features[name] = np.load(file.with_suffix('.npy')).astype(np.float32)
  accuracy = scorer_accuracy(scorers, trained, config)
  used = ledger.totals()
  if not primary:
    return {}
  table = arms.measure(
    replies,
    features,
    [brief.instruction_id_list for brief in briefs],
    trained.language,
    config.best_of,
    heldout.prompt_groups(briefs),
  )
  for arm in table['arms'].values():
    # NaN for the base, which has no rollouts
    arm['numbers']['raised'] = metrics.mean(
      [logs[name].raised for name in arm['runs'] if name in runs]
    )
  summary = {
    'briefs': len(briefs),
    'replies_per_brief': config.replies_per_brief,
    'steps': trained.steps,
    'notes': notes,
    'scorers': accuracy,
    'benchmark': benchmark(config.benchmark),
    'ifbench': benchmark(config.benchmark, IFBENCH),
    'warnings': {name: log.warnings for name, log in logs.items()},
    **table,
  }
  histories = {name: log.history for name, log in logs.items()}
  page.write(workdir, summary, replies, briefs, histories)
  usage.log('compare', used)
  return summary | {'usage': used}


def load_scorers(
  config: Config,
  trained: Config,
  base: LanguageModel,
  workdir: Path,
  briefs: Sequence[Brief],
) -> Scorers:
  """Loads the scorers, which share the base's weights where they can."""
  trained = scoring.without_idle_judge(trained, briefs)
  return Scorers(
    Scorer(base, trained, heldout=True),
    reward_model.load(config.unseen, base),
    factory.make_judge(
      config.judge, base.mesh, base, workdir=workdir, offload=trained.offload
    ),
  )


def find(pattern: str) -> dict[str, Path]:
  """Finds the finished `grpo` runs that match a glob pattern.

  Returns:
    Their folders, by the folders' names.

  Raises:
    ValueError: there is none, two have the same name, or a name is not ARM-SEED
      or uses the base's name as ARM.
  """
  folders = [Path(path) for path in sorted(glob.glob(pattern))]
  done: dict[str, Path] = {}
  for folder in folders:
    if not is_run(folder) or read_settings(folder).get('task') != 'grpo':
      continue
    if not is_finished(folder):
      console.notice(f'left out: {unfinished(folder)}')
      continue
    arm, _, seed = folder.name.rpartition('-')
    if not seed.isdecimal() or arm in ('', BASE):
      raise ValueError(
        f'{folder}: expected a folder named ARM-SEED, as in rlmr-0, with an '
        f'ARM other than {BASE}'
      )
    if folder.name in done:
      raise ValueError(f'{done[folder.name]} and {folder} have the same name')
    done[folder.name] = folder
  if not done:
    raise ValueError(
      f'runs={pattern!r}: expected a finished `grpo` run, found none among '
      f'{len(folders)} folders'
    )
  return done


def identity(briefs: list[Brief], trained: Config, config: Config) -> list[str]:
  """Digests of all that stored replies depend on, but the model itself."""
  settings = {key: trained.get(key) for key in _ANSWERED}
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
  texts = [repr(briefs), repr(settings | code), repr(asked)]
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


def differences(
  settings: dict[str, Config], alike: Sequence[str] = ALIKE
) -> list[str]:
  """Lists settings in which runs differ from the first.

  Those of `MIXING`, and those that change no result, are left out.
  A setting that a run lacks, because an older version made it, is ignored.

  Returns:
    One sentence per difference.

  Raises:
    ValueError: runs differ in one of `alike`, so a comparison is meaningless.
  """
  first, *others = settings
  notes = []
  for name in others:
    for key in sorted(
      {*settings[first]} & {*settings[name]} - {*MIXING, *FREE}
    ):
      here, there = settings[first][key], settings[name][key]
      # A sum may be written in several ways.
      if _is_alike({key: here}, {key: there}) or (
        key == 'writing' and sums.parse(here) == sums.parse(there)
      ):
        continue
      note = f'{key}: {here!r} in {first}, {there!r} in {name}'
      if key in alike:
        raise ValueError(f'runs cannot be compared: they differ in {note}')
      notes.append(note)
  return notes


def check_judges(
  settings: dict[str, Config], trained: Config, briefs: Sequence[Brief]
) -> None:
  """Checks that the runs have one judge, if it scores the replies.

  Args:
    settings: of the runs.
    trained: those that the replies are scored by.
    briefs: that are answered.

  Raises:
    ValueError: they have several.
  """
  if factory.has_judge(scoring.without_idle_judge(trained, briefs).judge):
    differences(settings, ['judge'])


def _is_alike(one: dict[str, Any], other: dict[str, Any]) -> bool:
  """Checks whether settings differ at most in what changes no result."""
  here, there = dict(leaves(one)), dict(leaves(other))
  return all(
    name in FREE or PATIENCE.fullmatch(name)
    for name in {*here, *there}
    if here.get(name) != there.get(name)
  )


def rate(
  file: Path,
  answered: list[list[dict[str, Any]]],
  base: list[list[dict[str, Any]]] | None,
  briefs: list[Brief],
  scorers: Scorers,
  config: Config,
) -> None:
  """Lets the other two scorers rate a model's replies, and stores these.

  Args:
    file: to be written in process 0, beside one of the replies' features.
    answered: `[P][G]` replies, changed in place.
    base: those of the base; None for the base itself.
    briefs: the P briefs.
    scorers: all three.
    config: the settings of the task.
  """
  features_PxGxD = read(answered, briefs, scorers, config)
  if scorers.judge is not None:
    shards = scorers.scorer.shards
    judge(scorers.judge, answered, base, briefs, config, shards)
    outage.refuse_silence(_SILENCE, scorers.judge)
  if processes.is_primary_process():
    # half precision is enough: features are used for diversity only
    np.save(file.with_suffix('.npy'), features_PxGxD.astype(np.float16))
    write(file, briefs, answered)


def read(
  answered: list[list[dict[str, Any]]],
  briefs: list[Brief],
  scorers: Scorers,
  config: Config,
) -> np.ndarray:
  """Adds the unseen reward model's score to each reply, as `unseen`.

  Returns:
    The features `[P, G, D]` that the scores are computed from.
  """
  mesh = scorers.unseen.decoder.mesh
  shards = processes.DataShards(mesh)
  size, found = round_up_groups(config.batch_size, mesh), []
  steps = console.progress('read', 0, len(briefs), 'brief', size)
  for first in processes.stoppable(steps):
    # The last batch is filled with repeated briefs: batches of one size need
    # no new compilation.
    rows = shards.local_slice(np.arange(first, first + size) % len(briefs))
    features_PxGxD = reward_model.read_texts(
      scorers.unseen,
      [briefs[row].request for row in rows],
      [[reply['text'] for reply in answered[row]] for row in rows],
      np.array([[reply['finished'] for reply in answered[r]] for r in rows]),
    )
    found += [*shards.gather_rows(features_PxGxD)]
  features_PxGxD = np.stack(found[: len(briefs)])
  # the score is linear in the features, so one forward pass gives both
  texts = [[reply['text'] for reply in group] for group in answered]
  score_PxG = reward_model.score_features(scorers.unseen, features_PxGxD, texts)
  for group, score_G in zip(answered, score_PxG, strict=True):
    for reply, score in zip(group, score_G, strict=True):
      reply['unseen'] = score
  return features_PxGxD


def judge(
  judge: Judge,
  answered: list[list[dict[str, Any]]],
  base: list[list[dict[str, Any]]] | None,
  briefs: list[Brief],
  config: Config,
  shards: processes.DataShards,
) -> None:
  """Adds the judge's verdicts to the first JUDGED_PER_BRIEF replies.

  Adds `good`, the probability of Good, and `won`, the comparison with the
  base's reply of the same number: 1 for a win, 0 for a loss, 0.5 where the two
  orders of asking disagree.  `won` is NaN for the base itself; both are NaN
  where the judge gave no verdict.

  Args:
    judge: the model that answers.
    answered: `[P][G]` replies of the model that is judged; changed in place.
    base: `[P][G]` replies of the base; None while judging the base.
    briefs: the P briefs.
    config: the settings of the task.
    shards: each process asks about its share of the briefs.
  """
  count = JUDGED_PER_BRIEF
  own = shards.local_items(range(len(briefs)))
  prompts = [briefs[p].text for p in own]
  ours = [[reply['text'] for reply in answered[p][:count]] for p in own]
  question = factory.make_question('judge', config.judge)
  good = questions.judge(judge, question, prompts, ours).first
  good_PxG = np.array(shards.gather_items([*good]))
  won_PxG = np.full_like(good_PxG, np.nan)
  if base is not None:
    # flat lists of P · count pairs, brief by brief
    won = questions.compare(
      judge,
      factory.make_question('compare', config.judge),
      [prompt for prompt in prompts for _ in range(count)],
      [text for group in ours for text in group],
      [reply['text'] for p in own for reply in base[p][:count]],
    )
    won_N = np.array(shards.gather_items([*won]))
    won_PxG = won_N.reshape(good_PxG.shape)
  for p, group in enumerate(answered):
    for g, reply in enumerate(group[:count]):
      reply |= {'good': good_PxG[p, g], 'won': won_PxG[p, g]}


def stored(file: Path) -> list[list[dict[str, Any]]]:
  """The replies `[P][G]` in a file of `write`."""
  return [line['replies'] for line in datasets.read_jsonl(file)]


def write(
  file: Path, briefs: list[Brief], answered: list[list[dict[str, Any]]]
) -> None:
  """One line per brief, the file whole or not at all."""
  with atomic(file) as partial, partial.open('wb') as out:
    for brief, group in zip(briefs, answered, strict=True):
      out.write(json_line({'brief_id': brief.id, 'replies': group}))


def scorer_accuracy(
  scorers: Scorers, trained: Config, config: Config
) -> dict[str, float]:
  """Accuracy of each scorer on held-out preference pairs; a tie counts half.

  Returns:
    `unseen` for the reward model, and `judge` where there is one.
  """
  pairs = datasets.load_preferences(
    config.preferences, split='heldout', language=trained.language
  )
  accuracy = {}
  shards = processes.DataShards(scorers.unseen.decoder.mesh)
  size = round_up_groups(config.batch_size, shards.mesh)
  right = []
  bar = console.progress('pairs', 0, len(pairs), 'pair', size)
  for first in processes.stoppable(bar):
    # the last batch repeats some pairs to keep its shape; they are cut below
    rows = shards.local_slice(np.arange(first, first + size) % len(pairs))
    score_Px2 = reward_model.score_texts(
      scorers.unseen,
      [pairs[row].prompt for row in rows],
      [[pairs[row].chosen, pairs[row].rejected] for row in rows],
      np.ones((len(rows), 2), bool),
    )
    score_Px2 = shards.gather_rows(score_Px2)
    right += [*stats.right(score_Px2)][: len(pairs) - first]
  accuracy['unseen'] = np.mean(right)
  if scorers.judge is not None:
    own = shards.local_items(pairs)
    won = questions.compare(
      scorers.judge,
      factory.make_question('compare', config.judge),
      [transcript(pair.prompt) for pair in own],
      [pair.chosen for pair in own],
      [pair.rejected for pair in own],
    )
    accuracy['judge'] = metrics.mean(np.array(shards.gather_items([*won])))
  return accuracy


def benchmark(pattern: str, of: str = IFEVAL) -> dict[str, dict[str, Any]]:
  """Reads a benchmark's four numbers of each arm from `verify` runs.

  Args:
    pattern: glob pattern of their folders, which are named by arm; '' for none.
      It may match runs on several benchmarks' prompts.
    of: name of the benchmark.

  Returns:
    By arm, the four numbers and `gain`: the mean difference of `prompt_strict`
    from the base's, `low` and `high`, its 95% interval over prompts; None where
    there is no base.

  Raises:
    ValueError: a folder is not that of a `verify` run with mode=benchmark, two
      have the same name, or the prompts of one are not those of the base.
  """
  scores: dict[str, dict[str, Any]] = {}
  strict: dict[str, dict[Any, bool | None]] = {}
  files = sorted(glob.glob(f'{pattern}/summary.json')) if pattern else []
  for file in map(Path, files):
    summary = read_json(file)
    numbers = {
      k: v for k, v in summary.items() if k.endswith(('strict', 'loose'))
    }
    if summary.get('mode') != 'benchmark' or not numbers:
      raise ValueError(
        f'{file}: expected the summary of a `verify` run with mode=benchmark'
      )
    if constraints.benchmark_of(summary.get('by_instruction', ())) != of:
      continue
    if file.parent.name in scores:
      raise ValueError(
        f'{pattern} matches several folders {file.parent.name}; expected one '
        'for each arm'
      )
    scores[file.parent.name] = numbers
    rows = datasets.read_jsonl(file.with_name('verdicts.jsonl'))
    # prompts are matched between arms by the benchmark's `key`
    if not all('key' in row for row in rows):
      raise ValueError(
        f'{file.parent}/verdicts.jsonl: expected {of} records, found a line '
        'without `key`'
      )
    strict[file.parent.name] = {
      row['key']: row['strict']['follow_all_instructions'] for row in rows
    }
  base = strict.get(BASE)
  for name, kept in strict.items():
    if base is not None and kept.keys() != base.keys():
      raise ValueError(f'{name} of {pattern} answers other prompts than {BASE}')
    if base is None:
      scores[name]['gain'] = None
      continue
    # in the order of the base's keys: prompts are paired; one with a rule that
    # cannot be checked may have no verdict
    paired = [key for key in base if None not in (base[key], kept[key])]
    ours_1xP, base_1xP = (
      np.array([[each[key] for key in paired]], float) for each in (kept, base)
    )
    # The base differs from itself by nothing.
    theirs_1xP = ours_1xP if kept is base else base_1xP
    gain = intervals.difference(ours_1xP, theirs_1xP, 1)
    # an arm's benchmark is of one run
    scores[name]['gain'] = gain._asdict() | {'over': intervals.scope(1)}
  return scores
