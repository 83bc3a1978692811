#!/usr/bin/env bash
# Which judge agrees with labels?  Compares, on replies held apart: Qwen2.5-Coder
# 0.5B and 1.5B with the shipped principles for Chinese greetings, the 1.5B with
# eight labelled examples among them, and the 0.5B after training on verdicts.
#
#   ./scripts/judges.sh WORKDIR LABELLED.jsonl [NAME=PRINCIPLES.md ...]
#
# LABELLED.jsonl has lines of {"prompt", "response", "label"}, with 1 for Good and
# 0 for Bad.  Each further argument adds the 1.5B with other principles, such as
# those of a game.  After an interruption, run it again to resume.
[ $# -ge 2 ] && [ -n "$1" ] || { sed -n '/^#  /p' "$0" >&2; exit 2; }
source "$(dirname "$0")/paths.sh"
workdir=$(realpath -m "$1") && labelled=$(data_path "$2") || exit
shift 2
names=() files=()
for other in "$@"; do
  name=${other%%=*}
  if [[ $other != ?*=* || $name == */* || $name == examples ]]; then
    echo "$other: expected NAME=FILE, with another name than 'examples'" >&2
    exit 2
  fi
  names+=("$name")
  file=${other#*=}  # or @NAME, principles that are shipped
  [[ $file == @* ]] || file=$(realpath -e "$file") || exit
  files+=("$file")
done
cd "$(dirname "$0")/.."
./scripts/models.sh qwen_coder_0_5b qwen_coder_1_5b || exit
source scripts/environment.sh ""

steps=${STEPS:-60}
small=models/Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf
large=models/Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf
principles=@principles_greetings_zh
data=$workdir/data
mkdir -p "$data"

python - "$labelled" "$data" <<'PYTHON'
import json, pathlib, sys

from rlcw.rewards.judge import questions
from rlcw.evaluation import labelled

file, folder = sys.argv[1], pathlib.Path(sys.argv[2])
splits = labelled.load(file, 'zh', dev=None, heldout=0.3)
lines = {
  name: [
    json.dumps(
      {
        'prompt': reply.prompt,
        'response': reply.response,
        'label': int(reply.label),
        'split': name,
      },
      ensure_ascii=False,
    )
    + '\n'
    for reply in replies
  ]
  for name, replies in splits.items()
}
for name, each in (
  ('heldout', lines['heldout']), ('all', lines['train'] + lines['heldout'])
):
  (folder / f'{name}.jsonl').write_text(''.join(each), 'utf-8')
# Principles with examples: four replies of each label.
shown = [
  f'- {"Good" if label else "Bad"}：{reply.response}'
  for label in (True, False)
  for reply in [r for r in splits['train'] if r.label == label][:4]
]
text = questions.read('@principles_greetings_zh')
text += '\n\n已有定论的例子：\n' + '\n'.join(shown) + '\n'
(folder / 'examples.md').write_text(text, 'utf-8')
# A judge that is trained learns from labels, not from long rules.
(folder / 'short.md').write_text('真挚、具体、不落俗套。\n', 'utf-8')
PYTHON

judge() {  # NAME MODEL PRINCIPLES
  rlcw --config=configs/judge.py --workdir="$workdir/$1" \
    --config.input="$data/heldout.jsonl" --config.judge.model="$2" \
    --config.judge.principles="$3" --config.judge.language=zh
}
judge small $small $principles
judge large $large $principles
judge large_examples $large "$data/examples.md"
for n in "${!names[@]}"; do
  judge "large_${names[n]}" $large "${files[n]}"
done
rlcw --config=configs/sft.py --workdir="$workdir/verdicts" --config.model=$small \
  --config.examples="$data/all.jsonl" --config.language=zh \
  --config.principles="$data/short.md" --config.steps="$steps" \
  --config.train=lora --config.learning_rate=2e-4 --config.row_tokens=512 \
  --config.rows_per_step=2 --config.checkpoint_every=10
judge small_trained "$workdir/verdicts" "$data/short.md"

python scripts/judges_table.py "$workdir"
