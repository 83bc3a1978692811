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
from rlcw.rewards.briefs import Brief, load_briefs
from rlcw.rewards.judge import factory, questions
from rlcw.rewards.judge.questions import Judge
from rlcw.rewards.scoring import Scorer
from rlcw.runtime import files, metrics, settings
from rlcw.runtime.mesh import make_mesh, with_mesh

MODELS = ('base', 'trained')


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Evaluates a finished `grpo` run; returns the summary."""
  trained = settings.read(config.run)
  base = language_model.load(trained.model, make_mesh(**config.mesh))
  scorer = Scorer(base, trained)
  after, learned = language_model.restore(config.run, base)
  joined = lora.join(learned, base.params)
  models = {'base': base, 'trained': after._replace(params=joined)}
  briefs = load_briefs(
    trained.briefs, split='heldout', language=trained.language
  )
  replies = {
    name: heldout.answer(models[name], scorer, briefs, trained, config)
    for name in MODELS
  }
  file = workdir / 'evaluation.jsonl'
  file.unlink(missing_ok=True)
  for i, brief in enumerate(briefs):
    files.append_jsonl(
      file,
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
      },
    )
  summary = summarise(briefs, replies, config.seed)
  panel = factory.make_judge(config.judge, base.mesh, base)
  if panel is not None:
    summary |= compare(panel, briefs, replies, config.judge)
  return summary


def summarise(
  briefs: list[Brief],
  replies: dict[str, list[list[dict[str, Any]]]],
  seed: int,
) -> dict[str, Any]:
  """Headline numbers of both models, and their differences."""
  summary: dict[str, Any] = {
    'briefs': len(briefs),
    'replies_per_brief': len(replies['base'][0]),
  }
  passed, written = {}, {}
  for name in MODELS:
    groups = replies[name]
    passed[name] = per_reply(
      groups, lambda r: 1 - constraints.breaks(r['follow'])
    )
    written[name] = per_reply(groups, lambda r: r['writing'])
    loose = [
      [heldout.follows_loosely(brief, reply) for reply in group]
      for brief, group in zip(briefs, groups, strict=True)
    ]
    summary |= {
      f'pass_rate_{name}': metrics.mean(passed[name]),
      f'pass_rate_loose_{name}': metrics.mean(loose),
      f'writing_{name}': metrics.mean(written[name]),
      f'finished_{name}': per_reply(groups, lambda r: r['finished']).mean(),
      f'length_{name}': per_reply(groups, lambda r: r['length']).mean(),
      f'distinct2_{name}': diversity.distinct(
        [r['text'] for g in groups for r in g], 2, briefs[0].language
      ),
      f'kl_{name}': per_reply(groups, lambda r: r['kl']).mean(),
    }
  summary['pass_rate_difference'] = stats.paired_bootstrap(
    passed['base'], passed['trained'], seed
  )
  summary['writing_difference'] = stats.paired_bootstrap(
    written['base'], written['trained'], seed
  )
  return summary


def compare(
  panel: Judge,
  briefs: list[Brief],
  replies: dict[str, list[list[dict[str, Any]]]],
  settings: Config,
) -> dict[str, Any]:
  """How often a judge prefers the trained model's reply, asked both ways.

  A tie, which the two orders disagree about, counts half.  A second rate says
  how often it would at equal length (`winrate`).
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
    panel,
    factory.make_question('compare', settings),
    [briefs[p].text for p in brief_N],
    ours,
    theirs,
  )
  longer_N = np.array([len(a) - len(b) for _, a, b in pairs])
  return winrate.summary(won_N, longer_N, np.array(brief_N))


def per_reply(groups: list[list[dict[str, Any]]], value: Any) -> np.ndarray:
  """One number per reply, `[P, G]`."""
  return np.array([[float(value(r)) for r in group] for group in groups])
