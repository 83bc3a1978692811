#!/usr/bin/env bash
# Does a reward model learn to write, or to count?  Trains one plainly, one on
# balanced pairs and one with length explained apart, and prints them beside
# what length alone would get.
#
#   ./scripts/length_bias.sh WORKDIR PREFERENCES.jsonl [--config.x=y ...]
set -euo pipefail
workdir="$1" file="$2"
shift 2
for debias in none balance length; do
  python -m rlcw.main --config="$(dirname "$0")/../configs/reward_model.py" \
    --workdir="$workdir/$debias" --config.preferences="$file" \
    --config.debias="$debias" "$@"
done
python - "$workdir" <<'PYTHON'
import json, pathlib, sys

ROW = '{:<10} {:>8} {:>8} {:>15} {:>8} {:>12}'
print(ROW.format('', 'all', 'matched', '95%', 'shorter', 'correlation'))
for name in 'none', 'balance', 'length':
  told = json.loads((pathlib.Path(sys.argv[1]) / name / 'summary.json').read_text())
  low, high = told['matched_interval']
  print(ROW.format(
    name, f"{told['heldout_accuracy']:.1%}", f"{told['matched_accuracy']:.1%}",
    f'{low:.1%} to {high:.1%}', f"{told['shorter_better_accuracy']:.1%}",
    f"{told['length_correlation']:+.2f}",
  ))
print(ROW.format(
  'longer', f"{told['length_only_accuracy']:.1%}",
  f"{told['matched_length_only']:.1%}", '', '0.0%', '+1.00',
))
print(
  f"held-out pairs: {told['heldout_pairs']}, of like length (±10%) "
  f"{told['matched_pairs']}, the shorter better {told['shorter_better_pairs']}"
)
PYTHON
