#!/usr/bin/env bash
# Trains a short run of every method that GRPO has as an option, each arm of
# configs/pilots.py, and prints how they compare on held-out briefs.  Takes an
# estimated three hours on 2 cores; after an interruption, run it again to
# resume.
#
#   ./scripts/pilots.sh                     # all arms, 40 steps each
#   STEPS=3 ./scripts/pilots.sh rlmr gdpo   # a trial of two arms
#
# UNSEEN=WORKDIR names another reward model than the one on Gemma 3 270M, which
# is then not downloaded.
[ -z "${UNSEEN:-}" ] || UNSEEN=$(realpath -e "$UNSEEN") || exit
cd "$(dirname "$0")/.."
[ -n "${UNSEEN:-}" ] || ./scripts/models.sh gemma3_270m
source scripts/environment.sh ""

steps=${STEPS:-40}
runs=runs/pilots/$steps
arms=("$@")
[ $# -gt 0 ] || mapfile -t arms < <(python -c 'import runpy
print(*runpy.run_path("configs/pilots.py")["VARIANTS"], sep="\n")')

rlcw --config=configs/reward_model.py --workdir=runs/experiment/reward_model
[ -n "${UNSEEN:-}" ] || rlcw --config=configs/reward_model.py \
  --workdir=runs/experiment/unseen \
  --config.model=models/gemma-3-270m.Q4_K_M.gguf
for arm in "${arms[@]}"; do
  rlcw --config=configs/pilots.py:"$arm" --workdir="$runs/$arm-0" \
    --config.steps="$steps"
done
# Replies are scored alike, also those of the arm with another writing score.
rlcw --config=configs/compare.py --workdir="$runs/comparison" \
  --config.runs="$runs/*-0" --config.unseen="${UNSEEN:-runs/experiment/unseen}" \
  --config.writing=reward_model --config.judge.model=
python - "$runs" <<'PYTHON'
import json, pathlib, sys

runs = pathlib.Path(sys.argv[1])
arms = json.loads((runs / 'comparison' / 'summary.json').read_text())['arms']
COLUMNS = {
  'both aims': ('kept_and_better', '.1%'), 'all rules': ('pass_rate', '.1%'),
  'unseen': ('unseen', '.2f'), 'distinct-2': ('distinct2', '.3f'),
  'Vendi': ('vendi', '.2f'), 'KL': ('kl', '.1f'),
}
print(f'| {" | ".join(["arm", *COLUMNS, "seconds"])} |')
print('|---' * (len(COLUMNS) + 2) + '|')
for arm, found in arms.items():
  numbers = [format(found['numbers'][k], f) for k, f in COLUMNS.values()]
  summary = runs / f'{arm}-0' / 'summary.json'
  seconds = '–'  # the base was not trained
  if summary.exists():
    seconds = f"{json.loads(summary.read_text())['wall_seconds']:.0f}"
  print(f'| {" | ".join([arm, *numbers, seconds])} |')
PYTHON
