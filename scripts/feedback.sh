#!/usr/bin/env bash
# Trains a writer from queries without annotators, by both strategies of
# arXiv 2508.21476: preference pairs curated by agents, and principles improved
# in an adversarial game.  One small model plays every role for a few steps, so
# this demonstrates the pipeline and not its quality.  Takes under half an hour
# on 2 cores; after an interruption, run it again to resume.
source "$(dirname "$0")/environment.sh" ""

runs=runs/feedback
model=models/SmolLM2-135M-Instruct.Q4_1.gguf
mkdir -p $runs
grep -m 12 '"language": "en"' rlcw/data/assets/themes.jsonl > $runs/queries.jsonl

# stage NAME CONFIG OPTIONS...
stage() {
  echo "== $1"
  rlcw --config=configs/"$2".py --workdir=$runs/"$1" "${@:3}"
}

# Strategy 1: queries -> preference pairs -> reward model -> writer.
stage pairs curate --config.queries=$runs/queries.jsonl \
  --config.writer.model=$model --config.writer.max_new_tokens=96 \
  --config.agent.model=$model --config.agent.max_new_tokens=96 \
  --config.agent.temperature=1.0
stage taste reward_model --config.preferences=$runs/pairs/preferences.jsonl \
  --config.heldout=0.3
stage writer grpo --config.reward_model=$runs/taste --config.steps=4

# Strategy 2: labelled replies -> principles -> judge -> another writer.
stage game adversary --config.agents.model=$model \
  --config.agents.max_new_tokens=160 --config.rounds=3 --config.batches=1
stage replies generate --config.model=$model \
  --config.input=$runs/queries.jsonl
stage verdicts judge --config.input=$runs/replies/replies.jsonl \
  --config.judge.model=$model \
  --config.judge.principles=$runs/game/principles.md
stage judged grpo --config.writing=judge --config.steps=4 \
  --config.reward_model=$runs/taste \
  --config.judge.model=$model \
  --config.judge.principles=$runs/game/principles.md
