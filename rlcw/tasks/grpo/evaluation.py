"""Evaluation on held-out briefs while a run trains, and its best checkpoint.

  1. base     the model before training answers the held-out briefs; its
              replies are the first lines of `evaluations.jsonl`
  2. answer   every `eval_every` steps the policy answers them, with the random
              keys of the base; on the mesh of training, in its dtypes and with
              its rollout table
  3. measure  metrics `eval/…` with 95% intervals over briefs, for the step's
              row; an unseen reward model and the judge read the replies too
  4. select   the best parameters are saved in `best/`, and a run ends that has
              not become better for `patience` evaluations

An evaluation is a function of (seed, parameters).  Best and patience are
computed from the rows of metrics, so a resumed run has those of an undisturbed
one.

Letters: P held-out briefs, G replies to each, L prompt tokens.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from rlcw import Config, train
from rlcw.data import batches
from rlcw.evaluation import heldout
from rlcw.models import lora
from rlcw.models.decoder import Params
from rlcw.models.language_model import LanguageModel
from rlcw.rewards import plain, revision, rubrics, writing
from rlcw.rewards.briefs import Brief, load_run_briefs
from rlcw.rewards.reward_model import FILE
from rlcw.rewards.scoring import Scorer, Scores
from rlcw.runtime import (
  console,
  files,
  processes,
  runs,
  settings,
)
from rlcw.runtime.checkpoint import Checkpoints
from rlcw.runtime.ranges import nearest
from rlcw.sampling import usage
from rlcw.sampling.samplers import make_sampler
from rlcw.tasks.grpo.measures import (
  AFTER,
  BEFORE,
  Best,
  Groups,
  measure,
  names,
)

# Maps trained parameters to replies and their scores, in process 0, and the
# judge's usage.
Answer = Callable[[Params], tuple[Groups, dict[str, float]]]

# Step of the base's replies in `evaluations.jsonl`.
BASE_STEP = -1
# Settings that nothing reads without evaluations, and their defaults.
_UNREAD = {
  'keep': 'newest',
  'patience': 0,
  'initial_eval': False,
  'eval.briefs': 0,
  'eval.replies_per_brief': 1,
  'eval.temperature': 0.0,
  'eval.batch_size': 32,
  'eval.unseen': '',
}
_LINE = (
  'grpo: evaluation after {step} steps: {both:.1%} reach both aims, '
  '{pass_rate:.1%} keep all rules, writing {writing:.3f}, unseen {unseen:.3f}, '
  '{length:.1f} tokens a reply'
)


def check(config: Config) -> None:
  """Checks the settings of evaluation against each other.

  Raises:
    ValueError: some do not fit; names them and the expected values.
    FileNotFoundError: the run of the unseen reward model has not finished.
  """
  # Configs of earlier versions do not have the settings.
  keep, patience = config.get('keep', 'newest'), config.get('patience', 0)
  if not config.get('eval_every', 0):
    settings.refuse_unread(
      config, _UNREAD, 'evaluations: expected eval_every above 0'
    )
    return
  if config.eval_every > config.steps and not (
    keep == 'newest' and config.initial_eval
  ):
    raise ValueError(
      f'eval_every={config.eval_every}, but there are {config.steps} steps, of '
      f'which none would be evaluated; expected at most {config.steps}, or 0'
    )
  known = [f'best:{AFTER}{name}' for name in names(config) if name != 'length']
  if keep not in ('newest', *known):
    raise ValueError(
      f'keep={keep!r}; expected newest or one of {", ".join(known)} (unseen '
      'and gap with eval.unseen, judge_good with a judge besides another '
      f'writing){nearest(keep, known)}'
    )
  if patience and keep == 'newest':
    raise ValueError(
      f'patience={patience} needs a metric to improve: expected keep=best:… '
      f'with one of {", ".join(known)}'
    )
  count, temperature = config.eval.replies_per_brief, config.eval.temperature
  if count > 1 and temperature == 0:
    raise ValueError(
      f'eval.replies_per_brief={count}, but with eval.temperature=0 all '
      'replies to a brief are equal; expected 1, or a temperature above 0'
    )
  writing.check_unseen(config.eval.unseen, config, 'eval.unseen')
  unseen = Path(config.eval.unseen or '.')
  if runs.is_run(unseen) and not (unseen / FILE).exists():
    raise FileNotFoundError(f'eval.unseen: {runs.unfinished(unseen)}')


def load_briefs(
  config: Config, system: str = '', workdir: str | Path = ''
) -> list[Brief]:
  """Loads the P held-out briefs of a run's evaluations.

  With `eval.briefs` they are so many, drawn by the seed.  Arguments are those
  of `load_run_briefs`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: there is no held-out brief, or one is not valid.
  """
  try:
    briefs = load_run_briefs(config, 'heldout', system, workdir)
  except ValueError as error:
    raise ValueError(
      f'eval_every={config.eval_every} needs held-out briefs: {error}'
    ) from None
  limit = config.eval.briefs
  if not 0 < limit < len(briefs):
    return briefs
  order_P = np.random.default_rng(config.seed).permutation(len(briefs))
  return [briefs[n] for n in sorted(order_P[:limit])]


def load_unseen(model: LanguageModel, config: Config) -> Scorer | None:
  """Loads the scorer that training does not use, if `eval.unseen` names one."""
  if not config.eval.unseen:
    return None
  other = ConfigDict(json.loads(config.to_json()))
  other.update_from_flattened_dict(
    {
      'writing': 'reward_model',
      'reward_model': config.eval.unseen,
      'verifiers': [],
      'judge.model': '',
      'judge.endpoint.url': '',
    }
  )
  return Scorer(model, other, reference=False)


def batch_size(config: Config, briefs: int) -> int:
  """Briefs at a time: batches as equal as possible, at most as large as set."""
  passes = -(-briefs // config.eval.batch_size)
  return -(-briefs // passes)


# --- In a run ---------------------------------------------------------------


def make_answer(
  model: LanguageModel,
  frozen: Params,
  scorer: Scorer,
  unseen: Scorer | None,
  briefs: list[Brief],
  config: Config,
) -> Answer:
  """Returns the function that answers the held-out briefs.

  Args:
    model: of the policy, for its config, tokenizer and mesh.
    frozen: parameters that complete those that are trained, or empty.
    scorer: of training.
    unseen: see `load_unseen`.
    briefs: the P held-out ones.
    config: of the `grpo` task, validated by `check`.
  """
  scorer = scorer.heldout()
  for each in filter(None, (scorer, unseen)):
    each.check_context(briefs)
  longest = max(len(model.chat.encode_prompt(b.request)) for b in briefs)
  # The unseen scorer reads texts, padded to these widths.
  widths = batches.power_of_two(longest), config.max_new_tokens
  settings = ConfigDict(
    dict(
      batch_size=batch_size(config, len(briefs)),
      replies_per_brief=config.eval.replies_per_brief,
      seed=config.seed,
    )
  )
  is_judged = 'judge_good' in names(config)
  scores_of = plain.scorer_of(scorer, briefs, config)

  def score(briefs: list[Brief], *batch: Any) -> Scores:
    prompt_PxL, length_P, rollout = batch
    # True: for the judge's opinion.
    return scores_of(briefs, prompt_PxL, length_P, rollout, True)

  def more_scores(
    briefs: list[Brief], scores: Scores, finished_PxG: np.ndarray
  ) -> dict[str, np.ndarray]:
    # The first two are in `rollouts.jsonl` as well.
    found = {'violated': scores.violated, 'valid': scores.valid}
    if unseen is not None:
      found['unseen'] = unseen.writing.part(
        'reward_model', briefs, scores.text, finished_PxG, widths
      )
    if is_judged:
      # It reads one reply to each brief.
      found['good'] = np.full(finished_PxG.shape, np.nan)
      found['good'][:, 0] = scores.good
    return found

  def answer(learned: Params) -> tuple[Groups, dict[str, float]]:
    before = scorer.usage()
    groups = heldout.answer(
      model._replace(params=lora.join(learned, frozen)),
      score,
      briefs,
      config,
      settings,
      sampler=make_sampler(config.eval.temperature),
      also=more_scores,
    )
    after = scorer.usage().items()
    spent = {f'judge_{name}': value - before[name] for name, value in after}
    # Processes that read the same rows count once.
    return groups, usage.add(processes.DataShards(model.mesh).gather(spent))

  return answer


class Evaluator:
  """The `train.Evaluation` of a run.

  Args:
    answer: of `make_answer`.
    briefs: the P held-out ones.
    config: of the `grpo` task, validated by `check`.
    workdir: of the run, which is claimed.
  """

  def __init__(
    self, answer: Answer, briefs: list[Brief], config: Config, workdir: Path
  ):
    self._answer, self._briefs = answer, briefs
    self._config, self._workdir = config, workdir
    self._log = workdir / 'evaluations.jsonl'
    self.best = Best(config.keep)
    self._base: Groups = []  # in process 0
    self._first: dict[str, Any] = {}  # further metrics of the first row

  def begin(self, learned: Params) -> None:
    """Evaluates the base, unless that is done; called before training.

    Args:
      learned: the trained parameters before the first step.
    """
    # A run that begins anew goes on from nothing that an earlier one kept.
    if processes.from_primary(lambda: not runs.newest_step(self._workdir)):
      best = self._workdir / runs.BEST / 'checkpoints'
      processes.from_primary(lambda: shutil.rmtree(best, ignore_errors=True))
    if not processes.from_primary(lambda: bool(self._read_base())):
      groups, spent = self._answer(learned)
      processes.from_primary(lambda: self._write_base(groups, spent))

    def measured() -> dict[str, Any]:
      lines = self._read_base()
      self._base = [line['replies'] for line in lines]
      found = lines[0]['usage']
      if self._config.initial_eval:
        found |= self._measure(self._base)
      return files.clean(found)

    self._first = _prefixed(BEFORE, processes.from_primary(measured))

  def _measure(self, groups: Groups) -> dict[str, float]:
    """Metrics of replies to the briefs."""
    group_P = heldout.prompt_groups(self._briefs)
    return measure(groups, self._base, names(self._config), group_P)

  def __call__(self, state: train.TrainState, step: int) -> dict[str, Any]:
    """See `train.Evaluation`."""
    found = dict(self._first) if step == 0 else {}
    if (step + 1) % self._config.eval_every:
      return found
    # Else the end of the update would be timed as a part of the evaluation.
    jax.block_until_ready(state.params)
    started = time.perf_counter()
    groups, spent = self._answer(state.params)
    if processes.is_primary_process():
      measured = self._measure(groups)
      for record in self._records(step, groups):
        files.append_jsonl(self._log, record)
      console.log(console.line(_LINE, {'step': step + 1, **measured}))
      found |= _prefixed(AFTER, measured)
    found |= _prefixed(AFTER, spent)
    return found | {'seconds_eval': time.perf_counter() - started}

  def select(self, state: train.TrainState, save: Callable[[], None]) -> str:
    """See `train.Evaluation`."""
    step, patience = int(state.step), self._config.patience
    best, reason = processes.from_primary(
      lambda: [self.best.step, self.best.ends(patience)]
    )
    # The base, whose row is not written yet.
    if best is None and step == 0 and self._config.initial_eval:
      best = 0
    if self.best.metric and best == step:
      # First, so that a run never goes back behind its best parameters.  The
      # base needs no checkpoint of the run.
      if step > 0:
        save()
      self._keep(state)
    return reason

  def _keep(self, state: train.TrainState) -> None:
    """Saves the parameters in the folder `best`, in place of earlier ones."""
    folder = self._workdir / runs.BEST
    if processes.is_primary_process():
      folder.mkdir(exist_ok=True)
    files.write_json(folder / 'config.json', json.loads(self._config.to_json()))
    inputs = self._workdir / settings.INPUTS
    if inputs.exists():
      record = files.read_json(inputs) | {'workdir': str(folder.absolute())}
      files.write_json(folder / settings.INPUTS, record)
    kept = Checkpoints(folder / 'checkpoints', keep=1)
    # A later one is of a try that this one does not go on from.
    kept.drop_from(int(state.step) + 1)
    # The one before is deleted once this one is whole.
    kept.save(int(state.step), state.params, {'step': state.step})
    kept.close()

  def summary(self, history: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns `best` and `ended` of a finished run, from its rows of metrics.

    The folder of the best parameters counts as finished from then on.
    """
    best = Best(self._config.keep)
    for row in history:
      best.see(row)
    if best.step is None:
      return {'best': None, 'ended': best.ends(self._config.patience)}
    found = {'metric': best.metric, 'value': best.value, 'step': best.step}
    folder = self._workdir / runs.BEST
    files.write_json(folder / runs.SUMMARY, {'steps': best.step, **found})
    console.log(
      f'grpo: best {best.metric} {best.value:.4g} after {best.step} steps, '
      f'in {folder}'
    )
    return {'best': found, 'ended': best.ends(self._config.patience)}

  def _records(self, step: int, groups: Groups) -> list[dict[str, Any]]:
    """Lines of `evaluations.jsonl`, as those of `rollouts.jsonl`."""
    return [
      {
        'step': step,
        'brief_id': brief.id,
        'prompt': brief.text,
        **revision.record(brief, self._config),
        **rubrics.record(brief.rubric),
        # Nothing is learned from them, nor are they compared with the base's
        # log-probabilities.
        'replies': [
          {name: value for name, value in reply.items() if name != 'kl'}
          | {'reward': None, 'advantage': None}
          for reply in group
        ],
      }
      for brief, group in zip(self._briefs, groups, strict=True)
    ]

  def _read_base(self) -> list[dict[str, Any]]:
    """Lines of the base's replies; empty if there are none yet."""
    # A killed process leaves a partial last line.
    files.count_whole_lines(self._log, 'step')
    lines = files.read_jsonl(self._log) if self._log.exists() else []
    found = [line for line in lines if line['step'] == BASE_STEP]
    return found if len(found) == len(self._briefs) else []

  def _write_base(self, groups: Groups, spent: dict[str, float]) -> None:
    """Puts the base's replies before all others, in one piece."""
    others = files.read_jsonl(self._log) if self._log.exists() else []
    first, *rest = self._records(BASE_STEP, groups)
    lines = [
      first | {'usage': spent},
      *rest,
      *(line for line in others if line['step'] != BASE_STEP),
    ]
    files.write_jsonl(self._log, lines)


def _prefixed(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
  return {prefix + name: value for name, value in values.items()}
