#!/usr/bin/env bash
# Measures the length bias of reward models: trains one without a correction,
# one on balanced pairs, one with a separate length term and one with the
# direction of length taken out of its head, and prints their accuracies beside
# that of preferring the longer reply.
#
#   ./scripts/length_bias.sh WORKDIR PREFERENCES.jsonl [--config.x=y ...]
#
# Paths in further settings are of this repository's folder.
[ $# -ge 2 ] && [ -n "$1" ] || { sed -n '/^#  /p' "$0" >&2; exit 2; }
# Resolve the paths before changing the folder.
source "$(dirname "$0")/paths.sh"
workdir=$(realpath -m "$1") && file=$(data_path "$2") || exit
shift 2
cd "$(dirname "$0")/.."
source scripts/environment.sh ""

for debias in none balance length projection; do
  rlcw --config=configs/reward_model.py \
    --workdir="$workdir/$debias" --config.preferences="$file" \
    --config.debias="$debias" "$@"
done
python - "$workdir" <<'PYTHON'
import json, pathlib, sys

from rlcw.evaluation.page import show as show_number


def show(share):
  return show_number(share, '.1%')  # a dash if no pair, or no prompt, shows it


ROW = '{:<10} {:>8} {:>8} {:>15} {:>8} {:>12}'
# the interval of `matched`, over prompts
print(ROW.format('', 'all', 'matched', '95%', 'shorter', 'correlation'))
for name in 'none', 'balance', 'length', 'projection':
  file = pathlib.Path(sys.argv[1]) / name / 'summary.json'
  summary = json.loads(file.read_text())
  low, high = summary['matched_interval'] or (None, None)
  print(ROW.format(
    name, show(summary['heldout_accuracy']), show(summary['matched_accuracy']),
    f'{show(low)} to {show(high)}', show(summary['shorter_better_accuracy']),
    f"{summary['length_correlation']:+.2f}",
  ))
# The last row needs no model, so it is the same in every summary.
print(ROW.format(
  'longer', show(summary['length_only_accuracy']),
  show(summary['matched_length_only']), '', '0.0%', '+1.00',
))
print(
  f"held-out pairs: {summary['heldout_pairs']}, of like length (±10%) "
  f"{summary['matched_pairs']}, the shorter better "
  f"{summary['shorter_better_pairs']}"
)
PYTHON
