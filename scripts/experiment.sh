#!/usr/bin/env bash
# Tests the dynamic penalty: trains every arm of configs/experiment.py and
# compares them on held-out briefs.  Takes an estimated four hours on 2 cores;
# after an interruption, run it again to resume.
#
#   IFEVAL=input_data.jsonl IFBENCH=IFBench_test.jsonl ./scripts/experiment.sh
#
# also measures whether general instruction following suffered
# (scripts/benchmarks.sh).  Either may be left out.

# Resolve the paths before changing the folder.
source "$(dirname "$0")/paths.sh"
[ -z "${IFEVAL:-}" ] || IFEVAL=$(data_path "$IFEVAL") || exit
[ -z "${IFBENCH:-}" ] || IFBENCH=$(data_path "$IFBENCH") || exit
cd "$(dirname "$0")/.."
./scripts/models.sh gemma3_270m || exit
source scripts/environment.sh ""

runs=runs/experiment
train() {  # ARM SEED
  rlcw --config=configs/experiment.py:"$1" --workdir="$runs/$1-$2" \
    --config.seed="$2"
}
compare() {
  # Made anew if there are new arms.
  rlcw --config=configs/compare.py --workdir=$runs/comparison \
    --config.benchmark="$runs/if[eb]*/*"
}

rlcw --config=configs/reward_model.py --workdir=$runs/reward_model
rlcw --config=configs/reward_model.py --workdir=$runs/unseen \
  --config.model=models/gemma-3-270m.Q4_K_M.gguf

for arm in rlmr writing linear_0.5 linear_1 linear_2 gate constraint; do
  train $arm 0
done
# The best weight of the linear mixer is chosen once, from the runs with seed 0;
# only that one is trained with further seeds.
[ -s $runs/linear ] || {
  compare
  python -c 'import json, sys
print(json.load(open(sys.argv[1]))["best"]["linear"])
' $runs/comparison/summary.json > $runs/linear
}
linear=$(cat $runs/linear)
for seed in 1 2; do
  for arm in rlmr writing "$linear"; do
    train "$arm" $seed
  done
done
for arm in rlmr_rank rlmr_suppress rlmr_writing_std rlmr_no_scale; do
  train $arm 0
done

./scripts/benchmarks.sh $runs rlmr=$runs/rlmr-0 \
  base=models/SmolLM2-135M-Instruct.Q4_1.gguf
compare
