#!/usr/bin/env bash
# From nothing to a trained model and a report: 20 to 40 minutes on 2 cores.
# Run it again to go on where it was stopped.
source "$(dirname "$0")/environment.sh"

runs=runs/quickstart
for task in reward_model grpo evaluate; do
  echo "== $task"
  rlcw --config=configs/$task.py --workdir=$runs/$task
done
rlcw --config=configs/report.py --workdir=$runs
echo "Open $runs/report.html"
