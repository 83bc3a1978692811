"""Samples and scores a model's replies to held-out briefs.

Several processes share each batch of briefs, and then have all replies.

Letters: P briefs, all of them (N where each is read once) or those of a batch;
G replies to each, L prompt tokens, T reply tokens.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.data import batches
from rlcw.data.characters import blank
from rlcw.evaluation import intervals
from rlcw.models import lora
from rlcw.models.chat import ChatFormat
from rlcw.models.language_model import LanguageModel
from rlcw.models.weights import copies, for_rollout
from rlcw.rewards import briefs as briefs_lib
from rlcw.rewards import constraints, revision
from rlcw.rewards.briefs import Brief
from rlcw.rewards.rules import habits
from rlcw.rewards.scoring import Scores
from rlcw.runtime import console, processes, runs
from rlcw.runtime.mesh import round_up_groups
from rlcw.sampling.rollout import Rollout, sample
from rlcw.sampling.samplers import Sampler, Temperature


def _known(reply: dict[str, Any], verdict: str) -> Any:
  """A verdict on a whole reply for rates, as by `constraints.keeps`."""
  return math.nan if None in reply.get('follow', ()) else reply[verdict]


# Values of one reply, from the fields that `answer` and later scorers write.
PER_REPLY: dict[str, Callable[[dict[str, Any]], Any]] = {
  'pass_rate': lambda reply: _known(reply, 'strict'),
  'pass_rate_loose': lambda reply: _known(reply, 'loose'),
  'writing': lambda reply: reply['writing'],
  'unseen': lambda reply: reply.get('unseen'),
  'good': lambda reply: reply.get('good'),
  'length': lambda reply: reply['length'],
  'truncated': lambda reply: not reply['finished'],
  'cliche': lambda reply: not habits.has_no_cliche(reply['text']),
  'kl': lambda reply: reply['kl'],
}

_PART = 'writing/'  # before the name of a part of the writing score

# Those that lie between 0 and 1, for their intervals.
SHARES = 'pass_rate', 'pass_rate_loose', 'good', 'truncated', 'cliche'


def computed_as(config: Config, trained: Config) -> Config:
  """Settings of a run, but computed as an evaluation of it asks for.

  Args:
    config: of the evaluation; an empty `compute_dtype`, `attention` or
      `rollout_table` leaves that of the run.
    trained: of the run, of which earlier versions lack some.
  """
  found = trained.copy_and_resolve_references()
  defaults = {
    'compute_dtype': 'float32',
    'attention': 'auto',
    'rollout_table': 'decode',
    'offload': False,
  }
  with found.unlocked():
    for name, default in defaults.items():
      found[name] = config.get(name) or trained.get(name, default)
  return found


def load_briefs(
  path: str, trained: Config, system: str, workdir: str | Path
) -> list[Brief]:
  """Loads the briefs that a run is measured on.

  Args:
    path: of other briefs than the held-out ones of the run, or ''.  All but
      those with the split `train` are loaded.
    trained: settings of the run.
    system: the system message if the run has none, that of its model.
    workdir: of the run.

  Raises:
    FileNotFoundError, ValueError: see `rewards.briefs.load_briefs`.
  """
  if path in ('', trained.briefs):
    if runs.whole(Path(workdir)) != Path(workdir):
      console.notice(
        f'{workdir} was chosen on these held-out briefs, which makes its gain '
        'look larger than on new ones, which --config.briefs may name'
      )
    return briefs_lib.load_run_briefs(trained, 'heldout', system, workdir)
  found = briefs_lib.load_briefs(
    path,
    split='heldout',
    language=trained.language,
    heldout=1.0,
    system=trained.get('system', '') or system,
  )
  _note_trained(path, found, trained, system, workdir)
  return found


def _note_trained(
  path: str,
  briefs: Sequence[Brief],
  trained: Config,
  system: str,
  workdir: str | Path,
) -> None:
  """Counts, in a notice, other briefs whose prompt a run was trained on.

  Such as those of the run's own file under another name.
  """
  with console.without_notices():
    try:
      learned = briefs_lib.load_run_briefs(trained, 'train', system, workdir)
    except (FileNotFoundError, ValueError):  # the file is gone, or another one
      return
  prompts = {brief.prompt for brief in learned}
  shared = sum(brief.prompt in prompts for brief in briefs)
  if shared:
    console.notice(
      f'{path}: the run was trained on the prompts of {shared} of '
      f'{len(briefs)} briefs, which it may know better than new ones'
    )


def encode(
  briefs: Sequence[Brief], chat: ChatFormat, trained: Config
) -> list[list[int]]:
  """Token ids of P briefs, of the first of two turns if there are two.

  Raises:
    ValueError: one does not fit the model's context with its replies.
  """
  asked = operator.attrgetter('request')
  if revision.revises(trained):
    asked = revision.first_turn
  prompts = [chat.encode_prompt(asked(brief)) for brief in briefs]
  chat.check_context(
    briefs_lib.by_name([*map(len, prompts)], briefs),
    trained.max_new_tokens,
  )
  return prompts


def answer(
  model: LanguageModel,
  scorer: Callable[..., Scores],
  briefs: list[Brief],
  trained: Config,
  config: Config,
  *,
  sampler: Sampler | None = None,
  also: Callable[[list[Brief], Scores, np.ndarray], dict[str, Any]]
  | None = None,
) -> list[list[dict[str, Any]]]:
  """Samples and scores G = `replies_per_brief` replies to each of P briefs.

  Of several processes each reads its share of the briefs.

  Args:
    model: the policy.
    scorer: as `scoring.Scorer`, or `plain.scorer_of` that for two turns.
    briefs: P held-out briefs.
    trained: the training run's settings (`computed_as`).
    config: the evaluation's settings, for batch size, group size and seed.
    sampler: of tokens; None for the temperature of training.
    also: a function of a batch's briefs, their scores, and a mask `[P, G]` of
      finished replies.  It returns further fields, `[P, G]` each.

  Returns:
    `[P][G]` dictionaries: `text`; `writing`, the writing score, and `parts` and
    `met` if it has some (`scoring.Scores.details`); `follow`, a verdict per
    rule; `finished`, false for a truncated reply; `length` in tokens; `kl`,
    which is log p − log p_base of the reply in nats, NaN where the scorer gives
    no log p_base; `strict` and `loose`, verdicts on the whole reply.  The mean
    of `kl` over replies estimates the KL divergence from the base model.
  """
  prompt_NxL, length_N = batches.pad(encode(briefs, model.chat, trained))
  second_turns = revision.encode(briefs, model.chat, trained)
  # merges adapters into the weights where that costs no precision
  decoder = lora.rollout_config(model.config)
  params = lora.rollout_params(model.config, model.params)
  shards = processes.DataShards(model.mesh)
  size, replies = round_up_groups(config.batch_size, model.mesh), []
  passes = -(-len(briefs) // size)
  steps = console.progress('evaluate', 0, passes, 'batch')
  for step in processes.stoppable(steps):
    # Every batch has the same shape, so that `sample` compiles once and rows
    # split over the devices; the last batch is filled with repeated briefs.
    rows = np.arange(step * size, (step + 1) * size) % len(briefs)
    own = shards.local_slice(rows)
    prompt_PxL, length_P, brief_P = shards.to_global(
      (prompt_NxL[own], length_N[own], own)
    )
    # Anew for each batch, so that no more is in memory than in training.
    ready = for_rollout(decoder, params, model.mesh, trained.rollout_table)
    # Random keys depend on seed, step (0) and row alone: all models draw the
    # same numbers for the same brief, which makes comparisons paired.
    rollout = sample(
      ready,
      prompt_PxL,
      length_P,
      brief_P,
      sampler or Temperature(trained.temperature),
      config.seed,
      0,
      second=second_turns and shards.to_global(second_turns.of(own)),
      config=decoder,
      group_size=config.replies_per_brief,
      max_new_tokens=trained.max_new_tokens,
      eos=model.chat.eos_ids,
      stop=model.chat.stop_ids,
      spent=copies(ready, params),
      pause=processes.stop_together,
    )
    del ready  # it need not be in memory while replies are scored
    chosen = [briefs[row] for row in own]
    scores = scorer(chosen, prompt_PxL, length_P, rollout)
    rollout, ref_logp = shards.local_rows((rollout, scores.ref_logp))
    fields = also(chosen, scores, np.asarray(rollout.finished)) if also else {}
    records = describe(chosen, rollout, scores, ref_logp, fields)
    replies += shards.gather_items(records)
  # drop the repeated briefs of the last batch
  return replies[: len(briefs)]


def describe(
  briefs: Sequence[Brief],
  rollout: Rollout,
  scores: Scores,
  ref_logp: Any,
  fields: dict[str, Any],
) -> list[list[dict[str, Any]]]:
  """Returns the records of replies as of `answer`, `[P][G]`.

  Args:
    briefs: P of this process.
    rollout: this process's replies.
    scores: of them.
    ref_logp: of their tokens, `[P, G, T]`, or None.
    fields: further ones, `[P, G]` each.
  """
  finished = np.asarray(rollout.finished)
  length = np.asarray(rollout.last_reply().length)
  kl_PxG = np.full(length.shape, np.nan)
  if ref_logp is not None:
    gap_PxGxT = np.asarray(rollout.logp - ref_logp)
    # the mask leaves out padding after a reply's last token
    kl_PxG = gap_PxGxT.sum(-1, where=np.asarray(rollout.drawn))
  records = [
    [
      {
        'text': scores.text[p][g],
        'writing': scores.writing[p, g],
        **scores.details(p, g),
        'follow': scores.follow[p][g],
        'finished': finished[p, g],
        'length': length[p, g],
        'kl': kl_PxG[p, g],
        **{name: values_PxG[p, g] for name, values_PxG in fields.items()},
      }
      for g in range(length.shape[1])
    ]
    for p in range(len(briefs))
  ]
  return [
    [_with_whole(brief, reply) for reply in group]
    for brief, group in zip(briefs, records, strict=True)
  ]


def check(
  briefs: Sequence[Brief], replies: Sequence[Sequence[dict[str, Any]]]
) -> list[list[dict[str, Any]]]:
  """Returns replies `[P][G]` with the verdicts of the rules' checks as of now.

  Those in stored replies may be of earlier checks.  On demands, which no code
  checks, the verdicts in a reply's `follow` count.
  """
  return [
    [_checked(brief, reply) for reply in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]


def _checked(brief: Brief, reply: dict[str, Any]) -> dict[str, Any]:
  rules = brief.follow(reply['text'])  # None at demands
  follow = [
    verdict if rule is None else rule
    for rule, verdict in zip(rules, reply['follow'], strict=True)
  ]
  return _with_whole(brief, reply | {'follow': follow})


def _with_whole(brief: Brief, reply: dict[str, Any]) -> dict[str, Any]:
  """Adds the verdicts on the whole reply."""
  return reply | {
    'strict': 1 - constraints.breaks(reply['follow']),
    'loose': follows_loosely(brief, reply),
  }


def parts(groups: Sequence[Sequence[dict[str, Any]]]) -> list[str]:
  """Keys `writing/NAME` of the writing score's parts, if it has several."""
  return [f'{_PART}{name}' for name in groups[0][0].get('parts', {})]


def parts_of(summary: Mapping[str, Any]) -> list[str]:
  """The keys of `parts` in the summary of an evaluation."""
  end = '_base'
  return [
    key.removesuffix(end)
    for key in summary
    if key.startswith(_PART) and key.endswith(end)
  ]


def values(groups: Sequence[Sequence[dict[str, Any]]], key: str) -> np.ndarray:
  """One of PER_REPLY or of `parts` for each reply, `[P, G]`; NaN if unknown."""
  if key.startswith(_PART):
    name = key.removeprefix(_PART)
    return np.array([[r['parts'][name] for r in group] for group in groups])
  value = PER_REPLY[key]
  return np.array([[value(r) for r in group] for group in groups], float)


def prompt_groups(briefs: Sequence[Brief]) -> np.ndarray:
  """Numbers P briefs by their prompts, equal ones alike, for intervals: `[P]`.

  If all have one prompt each has a number of its own: an interval is then over
  other rules for this prompt, not over other prompts.
  """
  group_P = intervals.groups(brief.prompt for brief in briefs)
  return group_P if group_P.any() else np.arange(len(briefs))


def kept_and_better(
  groups: Sequence[Sequence[dict[str, Any]]],
  base_P: np.ndarray,
  score: str = 'unseen',
) -> np.ndarray:
  """Returns which replies reach both aims, `[P, G]`; NaN if not known.

  They keep every rule, and are better written than the mean of the base's
  replies to the same brief; a blank reply is not.  A reply without a verdict on
  its rules or without a score is not known, even if it fails the other aim:
  else the replies of a judge that answers some questions would count by their
  failures alone.

  Args:
    groups: of replies.
    base_P: that mean.
    score: of writing, `unseen` (by a reward model that training never used) or
      `writing`.
  """
  kept_PxG = values(groups, 'pass_rate')
  above_PxG = values(groups, score) - base_P[:, None]
  written_PxG = [[not blank(reply['text']) for reply in g] for g in groups]
  better_PxG = (above_PxG > 0) & written_PxG
  # NaN where either is
  return kept_PxG * np.where(np.isnan(above_PxG), np.nan, better_PxG)


def follows_loosely(brief: Brief, reply: dict[str, Any]) -> float:
  """IFEval's loose verdict on a whole reply.

  Rules are checked loosely.  A demand has no loose form, so the judge's
  verdict in `reply['follow']` counts.

  Returns:
    1 if the reply keeps everything, 0 if it breaks something, NaN if nothing is
    broken but a verdict is missing.
  """
  # None at demands, which rule code cannot check
  loose = brief.follow(reply['text'], loose=True)
  verdicts = zip(loose, reply['follow'], strict=True)
  return 1 - constraints.breaks(
    [strict if rule is None else rule for rule, strict in verdicts]
  )
