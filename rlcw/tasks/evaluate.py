"""Task `evaluate`: the base model and the trained one on held-out briefs.

Both answer the same briefs with the same random keys; a reply passes when it
keeps every rule of its brief.  Differences come with 95% intervals from a
bootstrap over briefs, paired, since replies to one brief are alike.
"""

from pathlib import Path
from typing import Any

import numpy as np

from rlcw import Config
from rlcw.evaluation import diversity, heldout, stats, winrate
from rlcw.models import language_model, lora
from rlcw.rewards import constraints
from rlcw.rewards.briefs import Brief, load_briefs, load_run_briefs
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.questions import Judge
from rlcw.rewards.scoring import Scorer
from rlcw.runtime import files, metrics, settings
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.sampling import usage

MODELS = ('base', 'trained')


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Evaluates a finished `grpo` run and returns its summary."""
  trained = settings.read(config.run)
  if config.get('system'):
    with trained.unlocked():
      trained.system = config.system
  base = language_model.load(trained.model, make_mesh(**config.mesh))
  scorer = Scorer(base, trained, workdir)
  after, learned = language_model.restore(config.run, base)
  joined = lora.join(learned, base.params)
  models = {'base': base, 'trained': after._replace(params=joined)}
  briefs = (
    load_briefs(
      config.briefs,
      split='heldout',
      language=trained.language,
      heldout=1.0,  # all but those marked as training briefs
      system=trained.get('system', '') or base.system,
    )
    if config.briefs not in ('', trained.briefs)
    else load_run_briefs(trained, 'heldout', base.system)
  )
  replies = {
    name: heldout.answer(models[name], scorer, briefs, trained, config)
    for name in MODELS
  }
  lines = [
    {
      'brief_id': brief.id,
      'language': brief.language,
      'genre': brief.genre,
      'prompt': brief.text,
      'instruction_id_list': brief.instruction_id_list,
      'rules': [
        constraints.describe(rule, kwargs, brief.language, brief.paraphrase)
        for rule, kwargs in zip(
          brief.instruction_id_list, brief.kwargs, strict=True
        )
      ],
      **{name: replies[name][i] for name in MODELS},
    }
    for i, brief in enumerate(briefs)
  ]
  content = b''.join(map(files.json_line, lines))
  files.replace(workdir / 'evaluation.jsonl', content)
  summary = summarise(replies, briefs[0].language, config.seed)
  meters = {'scorer': scorer.usage}
  judge = factory.make_judge(config.judge, base.mesh, base, workdir=workdir)
  if judge is not None:
    meters['judge'] = judge.usage
    summary |= compare(judge, briefs, replies, config.judge)
  # Not a `Ledger`: an evaluation that is interrupted begins anew.
  used = {name: dict(meter()) for name, meter in meters.items()}
  usage.log('evaluate', used)
  return summary | {'usage': used}


def summarise(
  replies: dict[str, list[list[dict[str, Any]]]], language: str, seed: int
) -> dict[str, Any]:
  """Returns headline numbers of both models, and their differences.

  Args:
    replies: of each of MODELS, `[P][G]` (`heldout.answer`).
    language: of the replies.
    seed: of the bootstrap.
  """
  summary: dict[str, Any] = {
    'briefs': len(replies['base']),
    'replies_per_brief': len(replies['base'][0]),
  }
  values = {
    name: {key: heldout.values(replies[name], key) for key in heldout.PER_REPLY}
    for name in MODELS
  }
  for name, of_replies in values.items():
    texts = [reply['text'] for group in replies[name] for reply in group]
    summary |= {
      f'pass_rate_{name}': metrics.mean(of_replies['pass_rate']),
      f'pass_rate_loose_{name}': metrics.mean(of_replies['pass_rate_loose']),
      f'writing_{name}': metrics.mean(of_replies['writing']),
      f'finished_{name}': (1 - of_replies['truncated']).mean(),
      f'length_{name}': of_replies['length'].mean(),
      f'distinct2_{name}': diversity.distinct(texts, 2, language),
      f'kl_{name}': of_replies['kl'].mean(),
    }
  for key in ('pass_rate', 'writing'):
    summary[f'{key}_difference'] = stats.paired_bootstrap(
      values['base'][key], values['trained'][key], seed
    )
  return summary


def compare(
  judge: Judge,
  briefs: list[Brief],
  replies: dict[str, list[list[dict[str, Any]]]],
  judge_settings: Config,
) -> dict[str, Any]:
  """Returns how often a judge prefers the trained model's reply to the base's.

  Each pair is shown in both orders; a tie, where they disagree, counts half.
  The second rate is the estimate at equal length (`winrate`).
  """
  pairs = [
    (p, ours['text'], theirs['text'])
    for p, groups in enumerate(
      zip(replies['trained'], replies['base'], strict=True)
    )
    for ours, theirs in zip(*groups, strict=True)
  ]
  brief_N, ours, theirs = zip(*pairs, strict=True)
  won_N = questions.compare(
    judge,
    factory.make_question('compare', judge_settings),
    [briefs[p].text for p in brief_N],
    ours,
    theirs,
  )
  longer_N = np.array([len(a) - len(b) for _, a, b in pairs])
  return winrate.summary(won_N, longer_N, np.array(brief_N))
