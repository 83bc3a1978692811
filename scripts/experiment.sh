#!/usr/bin/env bash
# Does the dynamic penalty win?  Trains every arm of configs/experiment.py and
# compares them on held-out briefs: four hours on 2 cores, by estimate.  Run it
# again to go on where it was stopped.
#
#   IFEVAL=input_data.jsonl ./scripts/experiment.sh
#
# also asks whether general instruction following fell, by IFEval's prompts
# (of github.com/google-research, instruction_following_eval/data).
[ -z "${IFEVAL:-}" ] || IFEVAL=$(realpath -e "$IFEVAL") || exit
cd "$(dirname "$0")/.."
./scripts/gemma.sh
source scripts/environment.sh

runs=runs/experiment
train() {  # ARM SEED
  rlcw --config=configs/experiment.py:"$1" --workdir="$runs/$1-$2" \
    --config.seed="$2"
}
compare() {
  rm -f $runs/comparison/summary.json  # there may be more arms than last time
  rlcw --config=configs/compare.py --workdir=$runs/comparison \
    --config.benchmark="$runs/ifeval/*"
}

rlcw --config=configs/reward_model.py --workdir=$runs/reward_model
rlcw --config=configs/reward_model.py --workdir=$runs/unseen \
  --config.model=models/gemma-3-270m.Q4_K_M.gguf

for arm in rlmr writing linear_0.5 linear_1 linear_2 gate constraint; do
  train $arm 0
done
# chosen once, by runs of one seed
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

if [ -n "${IFEVAL:-}" ]; then
  for arm in base rlmr; do
    model=$runs/rlmr-0
    [ $arm = rlmr ] || model=models/SmolLM2-135M-Instruct.Q4_1.gguf
    rlcw --config=configs/generate.py --workdir=$runs/answers/$arm \
      --config.model=$model --config.input="$IFEVAL" --config.temperature=0.0 \
      --config.max_new_tokens=256
    rlcw --config=configs/verify.py --workdir=$runs/ifeval/$arm \
      --config.input=$runs/answers/$arm/replies.jsonl \
      --config.mode=benchmark
  done
fi
compare
