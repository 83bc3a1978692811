#!/usr/bin/env bash
# Installs rlcw, trains a small model and writes a report, in 20 to 40 minutes
# on 2 cores.  After an interruption, run it again to resume: a task that was
# asked to stop ends with status 75, and so does this script.
source "$(dirname "$0")/environment.sh" ""

runs=runs/quickstart
for task in reward_model grpo evaluate; do
  echo "== $task"
  rlcw --config=configs/$task.py --workdir=$runs/$task
done
rlcw --config=configs/report.py --workdir=$runs
echo "Open $runs/report.html"
