#!/usr/bin/env bash
# How a trained run and its base keep rules, and write, as a brief has more of
# them: random briefs on the same themes with 1 to 7 rules, as CS4 (Atmakuru et
# al., arXiv 2410.04197) has stories under more and more constraints.
#
#   ./scripts/tradeoff.sh RUN          # such as runs/quickstart/grpo
#
# takes about 20 minutes on 2 cores; after an interruption, run it again to
# resume.  With NOVELTY=curated.jsonl, NoveltyBench's prompts
# (github.com/novelty-bench/novelty-bench), it also counts the distinct answers
# among ten.
[ $# = 1 ] || { echo "Which run? expected a folder of grpo" >&2; exit 2; }
run=$(realpath -e "$1") || exit
source "$(dirname "$0")/paths.sh"
[ -z "${NOVELTY:-}" ] || NOVELTY=$(data_path "$NOVELTY") || exit
cd "$(dirname "$0")/.."
source scripts/environment.sh ""

runs=runs/tradeoff/$(basename "$(dirname "$run")")-$(basename "$run")
mkdir -p "$runs"
for n in 1 2 3 4 5 6 7; do
  rlcw --config=configs/briefs.py --workdir="$runs/briefs$n" \
    --config.count=80 --config.least_rules=$n --config.most_rules=$n
  # Left out are briefs on a prompt that the run was trained on, and those that
  # ask for more words than its `max_new_tokens` may hold, which no model keeps.
  python - "$run/config.json" "$runs/briefs$n" <<'PYTHON'
import json, pathlib, sys

from rlcw.data import datasets
from rlcw.rewards import briefs
from rlcw.runtime import files

settings, folder = json.load(open(sys.argv[1])), pathlib.Path(sys.argv[2])
trained = {
  brief.prompt
  for brief in briefs.load_briefs(
    settings['briefs'], split='train', heldout=settings['heldout']
  )
}


def least_words(brief):
  return max(
    (
      arguments.get('at_least', arguments.get('num_words', 0))
      for rule, arguments in zip(brief['instruction_id_list'], brief['kwargs'])
      if rule in ('length:words', 'length_constraints:number_words')
      and arguments.get('relation') != 'less than'
    ),
    default=0,
  )


drawn = datasets.read_jsonl(folder / 'briefs.jsonl')
kept = [
  brief | {'split': 'heldout'}
  for brief in drawn
  if brief['prompt'] not in trained
  and 1.5 * least_words(brief) <= settings['max_new_tokens']
]
files.write_jsonl(folder.with_suffix('.jsonl'), kept)
print(f'{len(kept)} of {len(drawn)} briefs with {folder.name[6:]} rules are left')
PYTHON
  rlcw --config=configs/evaluate.py --workdir="$runs/rules$n" \
    --config.run="$run" --config.briefs="$runs/briefs$n.jsonl"
done
python - "$runs" <<'PYTHON'
import json, pathlib, sys

print('| rules | every rule kept | difference | rules kept | writing |')
print('|---|---|---|---|---|')
for n in range(1, 8):
  folder = pathlib.Path(sys.argv[1]) / f'rules{n}'
  told = json.loads((folder / 'summary.json').read_text())
  lines = (folder / 'evaluation.jsonl').read_text('utf-8').splitlines()

  def kept(model: str) -> float:
    """Share of the rules that a model's replies keep."""
    verdicts = [
      verdict
      for line in map(json.loads, lines)
      for reply in line[model]
      for verdict in reply['follow']
      if verdict is not None
    ]
    return sum(verdicts) / len(verdicts)

  gain = told['pass_rate_difference']
  print(
    f"| {n} | {told['pass_rate_base']:.1%} → {told['pass_rate_trained']:.1%} "
    f"| {gain['mean']:+.1%} ({gain['low']:+.1%} to {gain['high']:+.1%}) "
    f"| {kept('base'):.1%} → {kept('trained'):.1%} "
    f"| {told['writing_base']:.2f} → {told['writing_trained']:.2f} |"
  )
PYTHON
[ -n "${NOVELTY:-}" ] || exit 0

base=$(python -c 'import json, sys
print(json.load(open(sys.argv[1] + "/config.json"))["model"])' "$run")
for name in base trained; do
  source=$base
  [ $name = base ] || source=$run
  rlcw --config=configs/generate.py --workdir="$runs/$name" \
    --config.model="$source" --config.input="$NOVELTY" --config.samples=10 \
    --config.temperature=1.0
done
python scripts/measure_novelty.py "$runs"/{base,trained}/replies.jsonl
