#!/usr/bin/env bash
# Measures how models follow instructions in general: greedy replies to the
# prompts of IFEval and IFBench, none of which rlcw trains on, and their checks.
#
#   IFEVAL=input_data.jsonl IFBENCH=IFBench_test.jsonl \
#     ./scripts/benchmarks.sh FOLDER NAME=MODEL...
#
# writes FOLDER/ifeval/NAME and FOLDER/ifbench/NAME, for
# `compare --config.benchmark`.  The prompts are those of IFEval
# (github.com/google-research/google-research, instruction_following_eval/data)
# and of IFBench (github.com/allenai/IFBench, data).  Either may be left out.  An
# estimated 20 to 80 minutes for a model of 135M on 2 cores; after an
# interruption, run it again to resume.
[ $# -ge 2 ] || { echo "Which models? expected FOLDER NAME=MODEL..." >&2; exit 2; }

# Resolve the paths before changing the folder; a model may be a Hub id too.
source "$(dirname "$0")/paths.sh"
[ -z "${IFEVAL:-}" ] || IFEVAL=$(data_path "$IFEVAL") || exit
[ -z "${IFBENCH:-}" ] || IFBENCH=$(data_path "$IFBENCH") || exit
folder=$(realpath -m "$1")
models=()
for named in "${@:2}"; do
  model=${named#*=}
  [ ! -e "$model" ] || model=$(realpath "$model")
  models+=("${named%%=*}=$model")
done
cd "$(dirname "$0")/.."
source scripts/environment.sh ""

measure() {  # BENCHMARK PROMPTS
  for named in "${models[@]}"; do
    answers=$folder/answers_$1/${named%%=*}
    rlcw --config=configs/generate.py --workdir="$answers" \
      --config.model="${named#*=}" --config.input="$2" \
      --config.temperature=0.0 --config.max_new_tokens=256
    rlcw --config=configs/verify.py --workdir="$folder/$1/${named%%=*}" \
      --config.input="$answers/replies.jsonl" --config.mode=benchmark
  done
}

[ -z "${IFEVAL:-}" ] || measure ifeval "$IFEVAL"
[ -z "${IFBENCH:-}" ] || measure ifbench "$IFBENCH"
