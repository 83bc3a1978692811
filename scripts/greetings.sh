#!/usr/bin/env bash
# Chinese greetings, by both strategies of arXiv 2508.21476, on models that read
# Chinese: Qwen2.5-Coder-0.5B writes, Qwen2.5-Coder-1.5B is every agent.  Prints
# tables of the judges (scripts/judges.sh), of the reward models and of the writers.
#
#   ./scripts/greetings.sh          # cut down; 38 minutes on 2 cores
#   LONG=1 ./scripts/greetings.sh   # an estimated 18 hours on one core, with SERVER
#
# After an interruption, run it again, with the same variables, to resume.  Cut
# down, a handful of pairs and three steps show that the parts work, not which
# strategy is better.
#
#   DATA=FOLDER   published greetings (sft.jsonl, labelled_dev.jsonl,
#                 preference_dev.jsonl) in place of our own pairs; the writer
#                 begins with supervised fine-tuning
#   SERVER=URL    an OpenAI-compatible server with the 1.5B model answers for
#                 the agents, as llama.cpp's, which writes several times as many
#                 tokens a second on a CPU
[ -z "${DATA:-}" ] || DATA=$(realpath -e "$DATA") || exit
cd "$(dirname "$0")/.."
./scripts/models.sh qwen_coder_0_5b qwen_coder_1_5b || exit
source scripts/environment.sh ""

runs=runs/greetings${DATA:+_published}
queries=5 candidates=3 themes=96 labelled=60 played=60 debated=4 pairs=60 rounds=1 batch=2 games=0
sft=10 verdicts=12 steps=3 prompts=4 seeds=0
arms='rlmr_reward rlmr_judge'
[ -z "${LONG:-}" ] || {
  runs=${runs}_long
  queries=64 candidates=2 themes=384 labelled=2000 played=160 debated=32 pairs=2000 rounds=3 batch=4
  games='0 1 2' sft=60 verdicts=60 steps=40 seeds='0 1'
  arms='writing_reward writing_judge rlmr_reward rlmr_judge'
}
corpus=@preferences.jsonl
small=models/Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf
large=models/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf
writer=$small
mkdir -p $runs
# A model here ends its JSON within the limit; a server's answer is cut there.
agent=$large tokens=128 server=
[ -z "${SERVER:-}" ] || { agent='' tokens=400 server=qwen; }

# --- Data -------------------------------------------------------------------
# Briefs with rules; a theme is in train or heldout.
rlcw --config=configs/briefs.py --workdir=$runs/briefs \
  --config.input=@themes_greetings_zh.jsonl --config.count=$themes \
  --config.rules="('length:characters', 'length:sentences', \
'keywords:existence', 'keywords:forbidden_words', 'style:no_cliche', \
'style:script', 'punctuation:no_emoji', 'punctuation:no_exclamation', \
'startend:start_checker', 'startend:end_checker')"
# A prompt, or a theme of our own pairs, is in one part only: labelled replies are
# for judges, the first half of the other pairs for a reward model, and the second
# for the scorer that training never sees.
python - "${DATA:-}" $labelled $played $debated $pairs $queries $runs <<'PYTHON'
import hashlib, json, pathlib, sys

from rlcw.data import datasets

data, *sizes, folder = sys.argv[1:]
labelled, played, debated, most, queries = map(int, sizes)


def group(row):
  return row.get('theme') or row['prompt']


def is_greeting(row):
  return row.get('genre', 'greeting') == 'greeting'


if data:
  replies = datasets.read_jsonl(f'{data}/labelled_dev.jsonl')
  pairs = datasets.read_jsonl(f'{data}/preference_dev.jsonl')
else:
  # In the file they are in order of their genre.
  pairs = sorted(
    (
      pair
      for pair in datasets.read_jsonl('@preferences.jsonl')
      if pair['language'] == 'zh'
    ),
    key=lambda pair: hashlib.sha256(pair['theme'].encode()).digest(),
  )
  # Judges are of greetings alone; of other genres are more pairs.
  greetings = list(filter(is_greeting, pairs))
  replies = [
    {'theme': pair['theme'], 'prompt': pair['prompt'], 'response': pair[side],
     'label': label}
    for pair in greetings[: len(greetings) // 2]
    for side, label in (('chosen', 1), ('rejected', 0))
  ]
# The same split for the game and for the table of judges.  Of the ten themes of
# our own, 0.3 would hold out but one.
share = 0.3 if data else 0.4
replies = [
  reply | {'split': datasets.split_of(group(reply), share)}
  for reply in replies[:labelled]
]
asked = set(map(group, replies))
others = [pair for pair in pairs if group(pair) not in asked][: 2 * most]
groups = list(dict.fromkeys(map(group, others)))
first = set(groups[: len(groups) // 2])
prompts = list(
  dict.fromkeys(
    pair['prompt']
    for pair in others
    if group(pair) in first and is_greeting(pair)
  )
)
asked_about = prompts[: min(queries, len(prompts) // 2)]
heldout = [reply for reply in replies if reply['split'] == 'heldout']
unseen = [pair for pair in others if group(pair) not in first]
files = {
  'labelled': replies,
  'played': replies[:played],
  'debated': heldout[:debated],
  'pairs': [pair for pair in others if group(pair) in first],
  'unseen': unseen,
  'sides': [
    {'prompt': pair['prompt'], 'response': pair[side]}
    for pair in unseen
    for side in ('chosen', 'rejected')
  ],
  'queries': [{'prompt': prompt} for prompt in asked_about],
  # Texts that the debate's writer is shown, none of them for its own query.
  'corpus': [
    pair
    for pair in others
    if group(pair) in first and pair['prompt'] not in asked_about
  ],
}
for name, rows in files.items():
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  text = '\n'.join(lines)
  (pathlib.Path(folder) / f'{name}.jsonl').write_text(text, encoding='utf-8')
PYTHON
# Our own pairs are the queries', too.
[ -n "${DATA:-}" ] || corpus=$runs/corpus.jsonl
[ -z "${DATA:-}" ] || {
  rlcw --config=configs/sft.py --workdir=$runs/sft --config.model=$small \
    --config.examples="$DATA/sft.jsonl" --config.language= \
    --config.heldout=0.02 --config.row_tokens=320 --config.steps=$sft \
    --config.train=lora --config.learning_rate=2e-4
  writer=$runs/sft
}

# --- Strategy 1: debate -> pairs -> reward model ----------------------------
debate() {  # NAME QUERIES WRITER
  rlcw --config=configs/curate.py --workdir=$runs/"$1" --config.language=zh \
    --config.queries=$runs/"$2".jsonl --config.candidates=$candidates \
    --config.corpus=$corpus --config.writer.model="$3" \
    --config.writer.max_new_tokens=64 --config.writer.temperature=0.7 \
    --config.agent.model=$agent --config.agent.max_new_tokens=$tokens \
    --config.agent.endpoint.url="${SERVER:-}" \
    --config.agent.endpoint.model=$server --config.agent.endpoint.schemas=True \
    --config.agent.endpoint.timeout=1800
}
debate debate queries $writer
# Without a writer, its verdicts on replies that have a label.
debate debated debated ''
reward_model() {  # NAME MODEL PAIRS LANGUAGE HELDOUT
  rlcw --config=configs/reward_model.py --workdir=$runs/"$1" \
    --config.model="$2" --config.preferences="$3" --config.language="$4" \
    --config.debias=length --config.heldout="${5:-0.1}"
}
reward_model reward_model $small $runs/pairs.jsonl ''
taste=$runs/debate/preferences.jsonl
scored=reward_model
if python - $taste <<'PYTHON'
import sys

from rlcw.data import datasets

pairs = datasets.read_jsonl(sys.argv[1])
splits = {datasets.split_of(pair['prompt'], 0.2) for pair in pairs}
sys.exit(len(pairs) < 8 or len(splits) < 2)
PYTHON
then
  reward_model taste $small $taste zh 0.2
  scored="$scored taste"
else
  echo "The debate gave too few pairs for a reward model."
fi
for name in $scored; do
  rlcw --config=configs/score.py --workdir=$runs/scores_"$name" \
    --config.run=$runs/"$name" --config.input=$runs/sides.jsonl
done

# --- Strategy 2: labelled replies -> principles -> judge --------------------
# A game rewrites the principles; training on verdicts needs none.
for seed in $games; do
  rlcw --config=configs/adversary.py --workdir=$runs/game-"$seed" \
    --config.labelled=$runs/played.jsonl \
    --config.agents.model=$agent --config.agents.max_new_tokens=800 \
    --config.agents.endpoint.url="${SERVER:-}" \
    --config.agents.endpoint.model=$server --config.agents.endpoint.schemas=True \
    --config.agents.endpoint.timeout=1800 \
    --config.rounds=$rounds --config.batches=1 --config.batch_size=$batch \
    --config.construction=@construction_zh \
    --config.judge.principles=@principles_greetings_zh --config.seed="$seed" \
    --config.judge.model=$large --config.judge.language=zh
done
rewritten=()
for seed in $games; do
  rewritten+=("game_$seed=$runs/game-$seed/principles.md")
done
STEPS=$verdicts ./scripts/judges.sh $runs/judges $runs/labelled.jsonl \
  "${rewritten[@]}"
judge=$runs/judges/verdicts short=$runs/judges/data/short.md
# On the pairs that the reward models were tried on.
rlcw --config=configs/judge.py --workdir=$runs/scores_judge \
  --config.input=$runs/sides.jsonl \
  --config.judge.model="$judge" --config.judge.principles="$short" \
  --config.judge.language=zh

# --- Writers ----------------------------------------------------------------
reward_model unseen_scorer $large $runs/unseen.jsonl ''
for seed in $seeds; do
  for arm in $arms; do
    # rlmr_judge: the mixer rlmr, and writing scored by the judge
    writing=judge_logit
    [ "${arm#*_}" = judge ] || writing=reward_model
    rlcw --config=configs/grpo.py:qwen_coder_0_5b --config.language=zh \
      --workdir=$runs/writers/"$arm-$seed" --config.seed="$seed" \
      --config.model=$writer --config.reward_model=$runs/reward_model \
      --config.briefs=$runs/briefs/briefs.jsonl --config.steps=$steps \
      --config.prompts_per_step=$prompts \
      --config.mixing.name="${arm%_*}" --config.writing=$writing \
      --config.judge.model="$judge" --config.judge.principles="$short" \
      --config.judge.language=zh
  done
done

python scripts/greetings_tables.py $runs
rlcw --config=configs/compare.py --workdir=$runs/comparison \
  --config.runs="$runs/writers/*-[0-9]" --config.unseen=$runs/unseen_scorer \
  --config.preferences=$runs/unseen.jsonl --config.writing=reward_model \
  --config.judge.model=
