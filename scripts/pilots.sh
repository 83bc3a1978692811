#!/usr/bin/env bash
# Trains a short run of each arm of configs/pilots.py, options of GRPO (further
# mixers are in configs/pressure.py), and prints how they compare on held-out
# briefs.  Takes about three hours on 2 cores; after an interruption, run it again
# to resume.
#
#   ./scripts/pilots.sh                     # all arms, 40 steps each
#   STEPS=3 ./scripts/pilots.sh rlmr gdpo   # a trial of two arms
#
# UNSEEN=WORKDIR names another reward model than the one on Gemma 3 270M, which
# is then not downloaded.
[ -z "${UNSEEN:-}" ] || UNSEEN=$(realpath -e "$UNSEEN") || exit
cd "$(dirname "$0")/.."
[ -n "${UNSEEN:-}" ] || ./scripts/models.sh gemma3_270m || exit
source scripts/environment.sh ""

steps=${STEPS:-40}
runs=runs/pilots/$steps
arms=("$@")
[ $# -gt 0 ] || mapfile -t arms < <(python -c 'import runpy
print(*runpy.run_path("configs/pilots.py")["VARIANTS"], sep="\n")')

rlcw --config=configs/reward_model.py --workdir=runs/experiment/reward_model
# What some arms need.
wants() { [[ " ${arms[*]} " == *" $1 "* ]]; }
! wants rlmr_projection || rlcw --config=configs/reward_model.py \
  --workdir=runs/pilots/projection --config.debias=projection
! wants rlmr_layers || rlcw --config=configs/reward_model.py \
  --workdir=runs/pilots/layers --config.layers=auto
mkdir -p runs/pilots
demonstrations=runs/pilots/demonstrations.jsonl
! wants rlmr_demonstrations || [ -s $demonstrations ] ||
  python - $demonstrations <<'PYTHON'
import pathlib, sys

import rlcw
from rlcw.data import datasets
from rlcw.runtime import files

briefs = datasets.read_jsonl('@briefs.jsonl')
briefs = [brief for brief in briefs if brief['language'] == 'en']
train = [brief for brief in briefs if brief['split'] == 'train']
model = 'models/SmolLM2-135M-Instruct.Q4_1.gguf'
groups = rlcw.sample(model, train, n=16, max_new_tokens=64, temperature=0.7)
verdicts = rlcw.check(train, groups)
scores = rlcw.score('runs/experiment/reward_model', train, groups)
for brief, *columns in zip(train, groups, verdicts, scores, strict=True):
  good = [
    (score, reply)
    for reply, found, score in zip(*columns, strict=True)
    if reply.finished and reply and all(verdict.kept for verdict in found)
  ]
  if good:
    brief['response'] = max(good)[1]
shown = sum('response' in brief for brief in train)
print(f'{shown} of {len(train)} briefs have a demonstration')
files.write_jsonl(pathlib.Path(sys.argv[1]), briefs)
PYTHON
[ -n "${UNSEEN:-}" ] || rlcw --config=configs/reward_model.py \
  --workdir=runs/experiment/unseen \
  --config.model=models/gemma-3-270m.Q4_K_M.gguf
for arm in "${arms[@]}"; do
  # Runs with two turns are compared with a base that has two turns.
  folder=$runs
  [[ $arm != *two_turns ]] || folder=$runs/two_turns
  rlcw --config=configs/pilots.py:"$arm" --workdir="$folder/$arm-0" \
    --config.steps="$steps"
done
# Replies are scored alike, also those of arms with another writing score.
comparison=comparison
[ -z "${UNSEEN:-}" ] || comparison=comparison-$(basename "$UNSEEN")
for folder in "$runs" "$runs/two_turns"; do
  compgen -G "$folder/*-0" > /dev/null || continue
  rlcw --config=configs/compare.py --workdir="$folder/$comparison" \
    --config.runs="$folder/*-0" --config.best_of="()" \
    --config.unseen="${UNSEEN:-runs/experiment/unseen}" \
    --config.briefs=@briefs.jsonl --config.writing=reward_model \
    --config.reward_model=runs/experiment/reward_model --config.judge.model=
done
python - "$runs" "$comparison" <<'PYTHON'
import json, pathlib, sys

COLUMNS = {
  'both aims': ('kept_and_better', '.1%'), 'all rules': ('pass_rate', '.1%'),
  'unseen': ('unseen', '.2f'), 'distinct-2': ('distinct2', '.3f'),
  'Vendi': ('vendi', '.2f'), 'KL': ('kl', '.1f'), 'length': ('length', '.1f'),
}
print(f'| {" | ".join(["arm", *COLUMNS, "seconds"])} |')
print('|---' * (len(COLUMNS) + 2) + '|')
runs = pathlib.Path(sys.argv[1])
for folder in (runs, runs / 'two_turns'):
  file = folder / sys.argv[2] / 'summary.json'
  if not file.exists():
    continue
  for arm, found in json.loads(file.read_text())['arms'].items():
    numbers = [format(found['numbers'][k], f) for k, f in COLUMNS.values()]
    summary, seconds = folder / f'{arm}-0' / 'summary.json', '–'
    if summary.exists():  # the base was not trained
      seconds = f"{json.loads(summary.read_text())['wall_seconds']:.0f}"
    name = f'{arm}, two turns' if arm == 'base' and folder != runs else arm
    print(f'| {" | ".join([name, *numbers, seconds])} |')
PYTHON
