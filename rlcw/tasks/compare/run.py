"""Task `compare`: several finished runs and their base on held-out briefs.

A run's folder is named ARM-SEED; the runs of an arm differ only in their seed.

1. every model samples replies to the same briefs with the same random keys
2. replies are scored as in training, by a reward model that training never used
   (of other data or another decoder), and by a judge where one is configured
3. scored replies are stored in the workdir, so that a later comparison with
   more runs reuses them
4. `arms` computes the statistics, `page` writes the report
"""

from pathlib import Path
from typing import Any

from rlcw import Config
from rlcw.evaluation import heldout
from rlcw.models import language_model
from rlcw.models.language_model import Placement
from rlcw.rewards import writing
from rlcw.rewards.constraints import IFBENCH, IFEVAL
from rlcw.runtime import console, metrics, processes
from rlcw.runtime.mesh import make_mesh, with_mesh
from rlcw.runtime.settings import read as read_settings
from rlcw.sampling import usage
from rlcw.sampling.usage import Ledger
from rlcw.tasks.compare import arms, page, replies, scorers
from rlcw.tasks.compare.benchmarks import benchmark
from rlcw.tasks.compare.logs import read_logs
from rlcw.tasks.compare.runs import (
  check_arms,
  check_judges,
  find,
  shared_settings,
)


@with_mesh
def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Compares runs: samples, scores, computes statistics, writes the page.

  Returns:
    The summary in process 0; an empty dict in the others.

  Raises:
    ValueError: see `find`, `shared_settings`, `check_arms`, `check_judges` and
      `benchmark`.
  """
  runs = find(config.runs)
  settings = {name: read_settings(folder) for name, folder in runs.items()}
  check_arms(settings)
  trained, notes = shared_settings(config, settings)
  for each in (trained, *settings.values()):
    writing.check_unseen(config.unseen, each, 'unseen')
  # Before the work that a spoiled file would waste.
  logs = {name: read_logs(folder) for name, folder in runs.items()}
  public = {of: benchmark(config.benchmark, of) for of in (IFEVAL, IFBENCH)}
  if config.benchmark and not any(public.values()):
    console.notice(
      f'benchmark={config.benchmark!r}: no finished run of verify matches'
    )
  placed = Placement(trained.compute_dtype, trained.attention)
  base = language_model.load(trained.model, make_mesh(**config.mesh), placed)
  first = next(iter(runs.values()))
  given = config.get('briefs', '')
  briefs = heldout.load_briefs(given, trained, base.system, first)
  heldout.encode(briefs, base.chat, trained)  # all fit, or an error
  check_judges(settings, trained, briefs)
  three = scorers.load(config, trained, base, workdir, briefs)
  meters = {'scorer': three.scorer.usage}
  if three.judge is not None:
    meters['judge'] = three.judge.usage
  ledger = Ledger(workdir, meters, three.scorer.shards.gather)
  answered, features = replies.sample(
    runs, base, briefs, three, trained, config, workdir / 'replies', ledger
  )
  accuracy = scorers.accuracy(three, trained, config)
  used = ledger.totals()
  if not processes.is_primary_process():
    return {}
  table = arms.measure(
    answered,
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
    'benchmark': public[IFEVAL],
    'ifbench': public[IFBENCH],
    'warnings': {name: log.warnings for name, log in logs.items()},
    **table,
  }
  histories = {name: log.history for name, log in logs.items()}
  page.write(workdir, summary, answered, briefs, histories)
  usage.log('compare', used)
  return summary | {'usage': used}
