#!/usr/bin/env bash
# Measures reward models on the first K layers of a decoder: trains one for each
# K, and prints its accuracies, its correlation with length, and the seconds in
# which it scores a reply to each of the first 64 held-out prompts (the best of
# three times, compiled before).
#
#   ./scripts/reward_layers.sh WORKDIR 'K K ...' [--config.x=y ...]
set -euo pipefail
workdir="$1" layers="$2"
shift 2
for count in $layers; do
  python -m rlcw.main --config="$(dirname "$0")/../configs/reward_model.py" \
    --workdir="$workdir/$count" --config.layers="$count" "$@"
done
python - "$workdir" $layers <<'PYTHON'
import json, pathlib, sys, time

import jax
import numpy as np

from rlcw.data import datasets
from rlcw.evaluation.page import show
from rlcw.models import language_model
from rlcw.rewards import reward_model
from rlcw.runtime.mesh import make_mesh

mesh = make_mesh()
ROW = '{:<8} {:>8} {:>8} {:>12} {:>8}'
print(ROW.format('layers', 'all', 'matched', 'correlation', 'seconds'))
for count in sys.argv[2:]:
  folder = pathlib.Path(sys.argv[1]) / count
  summary = json.loads((folder / 'summary.json').read_text())
  run = language_model.run_config(folder)
  asked = datasets.load_preferences(
    run.preferences, split='heldout', language=run.language,
    heldout=run.heldout,
  )[:64]
  texts = [each.prompt for each in asked], [each.replies[:1] for each in asked]
  seconds = []
  with jax.set_mesh(mesh):
    model = reward_model.load_alone(str(folder), mesh)
    for _ in range(4):
      started = time.perf_counter()
      reward_model.score_texts(model, *texts, np.ones((len(asked), 1), bool))
      seconds.append(time.perf_counter() - started)
  print(ROW.format(
    count, show(summary['heldout_accuracy'], '.1%'),
    show(summary['matched_accuracy'], '.1%'),
    f"{summary['length_correlation']:+.2f}", f'{min(seconds[1:]):.2f}',
  ))
PYTHON
