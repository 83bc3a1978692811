"""Task `evaluate`: the base model and the trained one on held-out briefs.

Both answer the same briefs with the same random keys; a reply passes when it
keeps every rule of its brief.  Differences come with 95% intervals over briefs,
paired, since replies to one brief are alike.  Another seed of training would
give another model: that chance is not in them.

The replies of a model are kept once all are scored, in `replies_MODEL.json`, so
that an evaluation that was interrupted goes on with the other model, or with
the judge.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.evaluation import diversity, heldout, intervals, winrate
from rlcw.models import language_model
from rlcw.models.language_model import LanguageModel, Placement
from rlcw.rewards import plain, revision, rubrics, scoring
from rlcw.rewards.briefs import Brief
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.questions import Judge
from rlcw.rewards.scoring import Scorer
from rlcw.runtime import (
  claim,
  console,
  files,
  inputs,
  metrics,
  processes,
  settings,
)
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import outage, usage
from rlcw.sampling.usage import Ledger

MODELS = ('base', 'trained')


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Evaluates a finished `grpo` run.

  Returns:
    The summary.

  Raises:
    FileNotFoundError, ValueError: there is no such run, it is of another task,
      or its briefs are invalid.
  """
  trained = settings.read(config.run)
  if trained.get('task') != 'grpo':
    raise ValueError(
      f'run={config.run} is of {trained.get("task") or "no task"}; '
      'expected the workdir of a run of grpo'
    )
  trained = heldout.computed_as(config, trained)
  if config.get('system'):
    with trained.unlocked():
      trained.system = config.system
  placed = Placement(trained.compute_dtype, trained.attention)
  base = language_model.load(trained.model, make_mesh(**config.mesh), placed)
  briefs = heldout.load_briefs(config.briefs, trained, base.system, config.run)
  heldout.encode(briefs, base.chat, trained)  # all fit, or an error
  asked = scoring.without_idle_judge(trained, briefs)
  scorer = Scorer(base, asked, workdir, heldout=True)
  scorer.check_context(briefs)
  models = {'base': base, 'trained': language_model.beside(config.run, base)}
  judge = factory.make_judge(
    config.judge, base.mesh, base, workdir=workdir, offload=trained.offload
  )
  meters = {'scorer': scorer.usage}
  if judge is not None:
    meters['judge'] = judge.usage
  claim.settle()  # replies of other settings are not gone on with
  ledger = Ledger(workdir, meters, scorer.shards.gather)
  key = processes.from_primary(lambda: inputs.describe(config))
  kept = {name: workdir / f'replies_{name}.json' for name in MODELS}
  replies = {}
  scores_of = plain.scorer_of(scorer, briefs, trained)
  for name, file in kept.items():
    answer = functools.partial(
      answer_scored, models[name], scores_of, briefs, trained, config
    )
    replies[name] = heldout.check(briefs, stored(file, key, answer))
    ledger.save()
  group_P = heldout.prompt_groups(briefs)
  lines = [
    {
      'brief_id': brief.id,
      'language': brief.language,
      'genre': brief.genre,
      'prompt': brief.text,
      'group': int(group_P[i]),
      **revision.record(brief, trained),
      'instruction_id_list': brief.instruction_id_list,
      'kwargs': brief.kwargs,
      **rubrics.record(brief.rubric),
      'rules': brief.rules,
      **{name: replies[name][i] for name in MODELS},
    }
    for i, brief in enumerate(briefs)
  ]
  if processes.is_primary_process():
    files.write_jsonl(workdir / 'evaluation.jsonl', lines)
  summary = summarise(replies, briefs[0].language, group_P)
  if judge is not None:
    summary |= compare(judge, briefs, replies, config.judge, scorer.shards)
  used = ledger.totals()
  print_tables(summary)
  usage.log('evaluate', used)
  return summary | {'usage': used}


def answer_scored(
  model: LanguageModel, scorer: Scorer, *settings: Any
) -> list[list[dict[str, Any]]]:
  """Returns `heldout.answer`, if the scorer has answered any question."""
  replies = heldout.answer(model, scorer, *settings)
  outage.refuse_silence('evaluate: the judge answered nothing', scorer)
  return replies


def stored(file: Path, key: Any, make: Callable[[], Any]) -> Any:
  """Returns a JSON value from a file, which is made anew for another key.

  Called in all processes, of which process 0 alone reads and writes the file.

  Args:
    file: it is written whole or not at all.
    key: JSON value that names all that the value depends on.
    make: makes the value.
  """

  def is_made() -> bool:
    return file.exists() and files.read_json(file).get('key') == key

  if not processes.from_primary(is_made):
    files.write_json(file, {'key': key, 'value': make()})
  return processes.from_primary(lambda: files.read_json(file)['value'])


def summarise(
  replies: dict[str, list[list[dict[str, Any]]]],
  language: str,
  group_P: np.ndarray | None = None,
) -> dict[str, Any]:
  """Returns headline numbers of both models, and their differences.

  Args:
    replies: of each of MODELS, `[P][G]` (`heldout.answer`).
    language: of the replies.
    group_P: number of each brief's prompt (`heldout.prompt_groups`); None if
      all differ.
  """
  texts, words = diversity.cut(
    [
      [reply['text'] for group in replies[name] for reply in group]
      for name in MODELS
    ],
    language,
  )
  summary: dict[str, Any] = {
    'briefs': len(replies['base']),
    'replies_per_brief': len(replies['base'][0]),
    # of each model's replies, cut to the same lengths
    'diversity_words': words,
  }
  parts = heldout.parts(replies['base'])
  values = {
    name: {
      key: heldout.values(replies[name], key)
      for key in (*heldout.PER_REPLY, *parts)
    }
    for name in MODELS
  }
  for (name, of_replies), of_model in zip(values.items(), texts, strict=True):
    summary |= {
      f'pass_rate_{name}': metrics.mean(of_replies['pass_rate']),
      f'pass_rate_loose_{name}': metrics.mean(of_replies['pass_rate_loose']),
      **{
        f'{key}_{name}': metrics.mean(of_replies[key])
        for key in ('writing', *parts)
      },
      f'finished_{name}': (1 - of_replies['truncated']).mean(),
      f'length_{name}': of_replies['length'].mean(),
      f'cliche_{name}': of_replies['cliche'].mean(),
      f'distinct2_{name}': diversity.distinct(of_model, 2, language),
      f'kl_{name}': of_replies['kl'].mean(),
    }
  for key in ('pass_rate', 'writing', *parts):
    base_1xP, trained_1xP = (
      metrics.mean(values[name][key], 1)[None] for name in MODELS
    )
    limit = 1 if key in heldout.SHARES else np.inf
    gain = intervals.difference(trained_1xP, base_1xP, limit, group_P)
    # one trained model
    summary[f'{key}_difference'] = {
      **gain._asdict(),
      'over': intervals.scope(1),
    }
  return summary


def compare(
  judge: Judge,
  briefs: list[Brief],
  replies: dict[str, list[list[dict[str, Any]]]],
  judge_settings: Config,
  shards: processes.DataShards,
) -> dict[str, Any]:
  """Returns how often a judge prefers the trained model's reply to the base's.

  Each pair is shown in both orders; a tie, where they disagree, counts half.
  The second rate is the estimate at equal length (`winrate`).  Each process
  asks about its share of the pairs, and gets all verdicts.

  Args:
    judge: of the config.
    briefs: P of them.
    replies: of each of MODELS, `[P][G]`.
    judge_settings: the node `judge` of the config.
    shards: divides the pairs over processes.
  """
  pairs = [
    (p, ours['text'], theirs['text'])
    for p, groups in enumerate(
      zip(replies['trained'], replies['base'], strict=True)
    )
    for ours, theirs in zip(*groups, strict=True)
  ]
  own = shards.local_items(pairs)
  won = questions.compare(
    judge,
    factory.make_question('compare', judge_settings),
    [briefs[p].text for p, _, _ in own],
    [ours for _, ours, _ in own],
    [theirs for _, _, theirs in own],
  )
  outage.refuse_silence('evaluate: the judge compared no replies', judge)
  won_N = np.array(shards.gather_items([*won]))
  longer_N = np.array([len(a) - len(b) for _, a, b in pairs])
  group_N = heldout.prompt_groups(briefs)[[p for p, _, _ in pairs]]
  return winrate.summary(won_N, longer_N, group_N)


# Label, field of the summary without its suffix, format.
_ROWS = (
  ('keeps every rule (strict)', 'pass_rate', 'z.1%'),
  ('keeps every rule (loose)', 'pass_rate_loose', 'z.1%'),
  ('writing score', 'writing', 'z.3f'),
  ('finished', 'finished', 'z.1%'),
  ('length, tokens', 'length', 'z.1f'),
  ('has a cliché', 'cliche', 'z.1%'),
  ('distinct-2', 'distinct2', 'z.3f'),
  ('KL from base, nats per reply', 'kl', 'z.2f'),
)
_RATES = (
  ('trained preferred', 'win_rate'),
  ('trained preferred, at equal length', 'length_controlled_win_rate'),
)


def print_tables(summary: dict[str, Any]) -> None:
  """Prints the main numbers of a summary, with the intervals that it has."""
  rows = []
  parts = ((part, part, 'z.3f') for part in heldout.parts_of(summary))
  for label, key, style in (*_ROWS, *parts):
    base, trained = (summary[f'{key}_{name}'] for name in MODELS)
    known = summary.get(f'{key}_difference', {'mean': trained - base})
    ends = [known[end] for end in ('low', 'high') if end in known]
    # Differences of shares are in percentage points, not per cent.
    unit = ' points' if style.endswith('%') else ''
    rows.append(
      (
        label,
        console.number(base, style),
        console.number(trained, style),
        console.number(known['mean'], f'+{style}').replace('%', unit),
        console.interval(ends or None, f'+{style}').replace('%', ''),
      )
    )
  console.table(
    f'evaluate: {summary["briefs"]} briefs, {summary["replies_per_brief"]} '
    'replies to each',
    ('', *MODELS, 'difference', f'95% interval, {intervals.scope(1)}'),
    rows,
  )
  if not summary.get('compared'):
    return
  console.table(
    f'evaluate: {summary["compared"]} pairs that the judge compared, '
    f'{summary["uncompared"]} without a verdict',
    ('', 'share', f'95% interval, {intervals.scope(1)}'),
    [
      (
        label,
        'not identified'
        if summary[key] is None
        else console.number(summary[key], '.1%'),
        console.interval(summary[f'{key}_interval'], '.1%'),
      )
      for label, key in _RATES
    ],
  )
