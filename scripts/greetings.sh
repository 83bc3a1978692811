#!/usr/bin/env bash
# Chinese greetings, by both strategies of arXiv 2508.21476, on models that read
# Chinese: Qwen2.5-Coder-0.5B writes, Qwen2.5-Coder-1.5B is every agent and the
# judge.  Prints tables of the judges (scripts/judges.sh) and of the writers.
#
#   ./scripts/greetings.sh          # cut down; with DATA, 75 minutes on one core
#   LONG=1 ./scripts/greetings.sh   # an estimated 30 hours on 2 cores
#
# After an interruption, run it again to resume.  Cut down, a handful of pairs
# and three steps show that every part works, not which strategy is better.
# With DATA=FOLDER, the published greetings (sft.jsonl, labelled_dev.jsonl,
# preference_dev.jsonl) take the place of our own pairs, and the writer begins
# with supervised fine-tuning.
[ -z "${DATA:-}" ] || DATA=$(realpath -e "$DATA") || exit
cd "$(dirname "$0")/.."
./scripts/models.sh qwen_coder_0_5b qwen_coder_1_5b || exit
source scripts/environment.sh ""

runs=runs/greetings${DATA:+_published}
queries=5 themes=96 labelled=60 unseen=60 rounds=1 steps=3 prompts=4 seeds=0
sft=10 verdicts=12
arms='rlmr_reward rlmr_judge'
[ -z "${LONG:-}" ] || {
  runs=${runs}_long
  queries=64 themes=384 labelled=2000 unseen=2000 rounds=8 steps=40 prompts=8
  seeds='0 1' sft=200 verdicts=100
  arms='writing_reward writing_judge rlmr_reward rlmr_judge'
}
small=models/Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf
large=models/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf
writer=$small
mkdir -p $runs

# --- Data -------------------------------------------------------------------
# Briefs with rules; a theme is in train or heldout.
rlcw --config=configs/briefs.py --workdir=$runs/briefs \
  --config.input=@themes_greetings_zh.jsonl --config.count=$themes \
  --config.rules="('length:characters', 'length:sentences', \
'keywords:existence', 'keywords:forbidden_words', 'style:no_cliche', \
'style:script', 'punctuation:no_emoji', 'punctuation:no_exclamation', \
'startend:start_checker', 'startend:end_checker')"
# Labelled replies are for judges; pairs of other prompts are for the scorer that
# training never sees.
python - "${DATA:-}" $labelled $unseen $queries $runs <<'PYTHON'
import json, pathlib, sys

from rlcw.data import datasets

data, labelled, unseen, queries, folder = sys.argv[1:]
folder = pathlib.Path(folder)
if data:
  replies = datasets.read_jsonl(f'{data}/labelled_dev.jsonl')
  pairs = datasets.read_jsonl(f'{data}/preference_dev.jsonl')
else:
  pairs = [
    {key: pair[key] for key in ('prompt', 'chosen', 'rejected')}
    for pair in datasets.read_jsonl('@preferences.jsonl')
    if pair['language'] == 'zh'
  ]
  replies = [
    {'prompt': pair['prompt'], 'response': pair[side], 'label': label}
    for pair in pairs[::2]
    for side, label in (('chosen', 1), ('rejected', 0))
  ]
# The same split for the game and for the table of judges.
replies = [
  reply | {'split': datasets.split_of(reply['prompt'], 0.3)}
  for reply in replies[: int(labelled)]
]
asked = {reply['prompt'] for reply in replies}
files = {
  'labelled': replies,
  'unseen': [p for p in pairs if p['prompt'] not in asked][: int(unseen)],
  'queries': datasets.read_jsonl('@themes_greetings_zh.jsonl')[: int(queries)],
}
for name, rows in files.items():
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  (folder / f'{name}.jsonl').write_text('\n'.join(lines), encoding='utf-8')
PYTHON
[ -z "${DATA:-}" ] || {
  rlcw --config=configs/sft.py --workdir=$runs/sft --config.model=$small \
    --config.examples="$DATA/sft.jsonl" --config.language= \
    --config.heldout=0.02 --config.row_tokens=320 --config.steps=$sft \
    --config.train=lora --config.learning_rate=2e-4
  writer=$runs/sft
}

# --- Strategy 1: debate -> pairs -> reward model ----------------------------
rlcw --config=configs/curate.py --workdir=$runs/pairs --config.language=zh \
  --config.queries=$runs/queries.jsonl --config.candidates=3 \
  --config.writer.model=$writer --config.writer.max_new_tokens=64 \
  --config.writer.temperature=0.7 \
  --config.agent.model=$large --config.agent.max_new_tokens=128
taste=$runs/pairs/preferences.jsonl
[ "$(wc -l < $taste)" -ge 8 ] || {
  echo "The debate gave too few pairs for a reward model: it is fitted to ours."
  taste=@preferences.jsonl
}
rlcw --config=configs/reward_model.py --workdir=$runs/reward_model \
  --config.model=$small --config.preferences=$taste --config.language=zh

# --- Strategy 2: game -> principles -> judge --------------------------------
rlcw --config=configs/adversary.py --workdir=$runs/game \
  --config.labelled=$runs/labelled.jsonl --config.agents.model=$large \
  --config.agents.max_new_tokens=160 --config.rounds=$rounds \
  --config.batches=1 --config.construction=@construction_zh \
  --config.judge.principles=@principles_greetings_zh --config.judge.language=zh
# These judges on replies held apart, beside other ways to a judge.
STEPS=$verdicts ./scripts/judges.sh $runs/judges $runs/labelled.jsonl \
  game=$runs/game/principles.md

# --- Writers ----------------------------------------------------------------
rlcw --config=configs/reward_model.py --workdir=$runs/unseen \
  --config.model=$large --config.preferences=$runs/unseen.jsonl \
  --config.language=
for seed in $seeds; do
  for arm in $arms; do
    # rlmr_judge: the mixer rlmr, and writing scored by the judge
    writing=judge
    [ "${arm#*_}" = judge ] || writing=reward_model
    rlcw --config=configs/grpo.py:qwen_coder_0_5b --config.language=zh \
      --workdir=$runs/writers/$arm-$seed --config.seed=$seed \
      --config.model=$writer --config.reward_model=$runs/reward_model \
      --config.briefs=$runs/briefs/briefs.jsonl --config.steps=$steps \
      --config.prompts_per_step=$prompts \
      --config.mixing.name="${arm%_*}" --config.writing=$writing \
      --config.judge.model=$large --config.judge.language=zh \
      --config.judge.principles=$runs/game/principles.md
  done
done

python - $runs <<'PYTHON'
import json, pathlib, sys

runs = pathlib.Path(sys.argv[1])
pairs, taste, unseen = (
  json.loads((runs / name / 'summary.json').read_text())
  for name in ('pairs', 'reward_model', 'unseen')
)
print(
  f'Debate: {pairs["pairs"]} pairs from {pairs["queries"]} queries, '
  f'{pairs["overturn_rate"]:.1%} of verdicts overturned, '
  f'the longer reply chosen in {pairs["chosen_longer"]:.1%}.\n'
  f'Reward model on the 0.5B: {taste["heldout_accuracy"]:.1%} of '
  f'{taste["heldout_pairs"]} held-out pairs.  Scorer on the 1.5B that no writer '
  f'sees: {unseen["heldout_accuracy"]:.1%} of {unseen["heldout_pairs"]}.'
)
PYTHON
rlcw --config=configs/compare.py --workdir=$runs/comparison \
  --config.runs="$runs/writers/*-[0-9]" --config.unseen=$runs/unseen \
  --config.preferences=$runs/unseen.jsonl --config.writing=reward_model \
  --config.judge.model=
