#!/usr/bin/env bash
# Does RLMR win where its rivals push as hard on the rules?
#
# 1. Every arm of configs/pressure.py is trained with one seed.  By the share of
#    replies to the held-out briefs that keep every rule and are better written
#    than the base's, the two best forms of rlmr and the three best rivals are
#    chosen (of `linear`, one weight).
# 2. These are trained with three other seeds, and compared on briefs that no
#    choice has seen.
#    With IFEVAL=FILE and IFBENCH=FILE, the best form and the best rival of 1
#    are measured on these benchmarks (scripts/benchmarks.sh).
# 3. With SECOND=1, the chosen are trained once on Qwen2.5-Coder-0.5B, in
#    English and in Chinese, and compared on those briefs.
#
#   ./scripts/pressure.sh             # an estimated 10 hours on 2 cores, 12 on one
#   ./scripts/pressure.sh ARM-SEED... # trains these runs alone: of 1 those with
#                                     # seed 0, of 2 with 1 to 3
#
# After an interruption, run it again to resume.  The second form lets several
# shells share the training: begin the others when the first trains its first
# run, give each other runs, and run the first form when all have ended.
# STEPS=40 trains shorter, in a folder of its own.  If runs/pressure/STEPS/chosen
# names arms, one to a line and the two forms first, 1 is not run.

# Resolve the paths before changing the folder.
source "$(dirname "$0")/paths.sh"
[ -z "${IFEVAL:-}" ] || IFEVAL=$(data_path "$IFEVAL") || exit
[ -z "${IFBENCH:-}" ] || IFBENCH=$(data_path "$IFBENCH") || exit
cd "$(dirname "$0")/.."
source scripts/environment.sh ""

steps=${STEPS:-60}
runs=runs/pressure/$steps
reported=@briefs_reported.jsonl
gemma=models/gemma-3-270m.Q4_K_M.gguf

train() {  # FOLDER ARM SEED SETTINGS...
  rlcw --config=configs/pressure.py:"$2" --workdir="$runs/$1/$2-$3" \
    --config.seed="$3" --config.steps="$steps" "${@:4}"
}

rlcw --config=configs/reward_model.py --workdir=runs/experiment/reward_model
if [ $# -gt 0 ]; then
  for run in "$@"; do
    folder=seeds
    [ "${run##*-}" != 0 ] || folder=selection
    train $folder "${run%-*}" "${run##*-}"
  done
  exit
fi

./scripts/models.sh gemma3_270m
rlcw --config=configs/reward_model.py --workdir=runs/experiment/unseen \
  --config.model=$gemma

# --- 1. Choosing ------------------------------------------------------------
[ -s $runs/chosen ] || {
  mapfile -t arms < <(python -c 'import runpy
print(*runpy.run_path("configs/pressure.py")["VARIANTS"], sep="\n")')
  for arm in "${arms[@]}"; do train selection "$arm" 0; done
  rlcw --config=configs/compare.py --workdir=$runs/selected \
    --config.runs="$runs/selection/*-0" --config.judge.model=
  python - $runs/selected/summary.json > $runs/chosen.part <<'PYTHON'
import json, sys

summary = json.load(open(sys.argv[1]))
ranked = sorted(
  (arm for arm in summary['arms'] if arm != 'base'),
  key=lambda arm: -summary['arms'][arm]['numbers']['kept_and_better'],
)
forms = [arm for arm in ranked if arm.startswith('rlmr')]
rivals = [
  arm
  for arm in ranked
  if arm not in forms
  and (not arm.startswith('linear') or arm == summary['best']['linear'])
]
print(*forms[:2], *rivals[:3], sep='\n')
PYTHON
  mv $runs/chosen.part $runs/chosen
}
mapfile -t chosen < $runs/chosen

# --- 2. Reporting -----------------------------------------------------------
for seed in 1 2 3; do
  for arm in "${chosen[@]}"; do train seeds "$arm" $seed; done
done
compare() {
  rlcw --config=configs/compare.py --workdir=$runs/comparison \
    --config.runs="$runs/seeds/*-[1-3]" --config.briefs=$reported \
    --config.benchmark="$runs/if[eb]*/*" --config.judge.model=
}
compare
[ -z "${IFEVAL:-}${IFBENCH:-}" ] || {
  ./scripts/benchmarks.sh $runs base=models/SmolLM2-135M-Instruct.Q4_1.gguf \
    "${chosen[0]}=$runs/seeds/${chosen[0]}-1" \
    "${chosen[2]}=$runs/seeds/${chosen[2]}-1"
  compare
}

# --- 3. A second model ------------------------------------------------------
[ -n "${SECOND:-}" ] || exit 0
./scripts/models.sh qwen_coder_0_5b
qwen=models/Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf
for language in en zh; do
  folder=qwen_$language
  rlcw --config=configs/reward_model.py --config.language=$language \
    --config.model=$qwen --workdir=$runs/$folder/reward_model
  rlcw --config=configs/reward_model.py --config.language=$language \
    --config.model=$gemma --workdir=$runs/$folder/unseen
  for arm in "${chosen[@]}"; do
    train $folder "$arm" 1 --config.language=$language --config.model=$qwen \
      --config.reward_model=$runs/$folder/reward_model
  done
  rlcw --config=configs/compare.py --workdir=$runs/${folder}_comparison \
    --config.runs="$runs/$folder/*-1" --config.briefs=$reported \
    --config.unseen=$runs/$folder/unseen --config.judge.model=
done
