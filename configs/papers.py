r"""The two papers at their scale: every command, from data to report.

  rlcw --config=configs/papers.py:rlmr_8b --workdir=runs/rlmr_8b/grpo

A variant's docstring has the commands in their order, what is the paper's in
them and what is ours, and the word of `plan` on a TPU slice:

  rlcw --config=configs/papers.py:rlmr_8b --workdir=runs/plan/rlmr_8b \
    --config.task=plan

None of them has been trained yet.

Cost: days of a slice.
Expect: with rlmr, max_violator_advantage below 0 in every step, and a page
about both aims on held-out briefs.
"""

from typing import Any

from ml_collections import ConfigDict

from rlcw.runtime.configs import check_variant, load


def rlmr_8b() -> tuple[str, dict[str, Any]]:
  """RLMR (arXiv 2508.18642) on Qwen3-8B.

  out=runs/rlmr_8b
  # Briefs with rules, from THEMES, prompts of your own ({"prompt"}).
  rlcw --config=briefs --workdir=$out/briefs --config.input=THEMES \
    --config.count=6400 --config.least_rules=2 --config.most_rules=4
  # The writing reward model, from PAIRS of human preferences; and another one
  # of other data, to see whether the policy games the first.
  rlcw --config=reward_model:qwen2_5_7b --workdir=$out/reward_model \
    --config.preferences=PAIRS
  rlcw --config=reward_model:qwen2_5_7b --workdir=$out/unseen \
    --config.preferences=OTHER_PAIRS
  rlcw --config=papers:rlmr_8b --workdir=$out/grpo
  # Both aims on held-out briefs; IFEval's prompts (input_data.jsonl) after
  # training, and before it with --config.model=Qwen/Qwen3-8B.
  rlcw --config=evaluate --workdir=$out/evaluate --config.run=$out/grpo
  rlcw --config=generate --workdir=$out/answers --config.model=$out/grpo \
    --config.input=input_data.jsonl --config.temperature=0.0 \
    --config.max_new_tokens=2048
  rlcw --config=verify --workdir=$out/ifeval \
    --config.input=$out/answers/replies.jsonl --config.mode=benchmark
  rlcw --config=report --workdir=$out --config.evaluate=$out/evaluate

  The paper's: a writing reward model on human pairs, a strict verdict on the
  brief's demands, a penalty that makes every violator's advantage negative,
  GRPO, models of 8B to 72B, IFEval as a measure.  Ours: the formula of the
  penalty and its margin, rules in place of a verifying model (demands that no
  program can check are `soft:demand`, with `--config.judge.model=…`),
  Qwen2.5-7B with adapters as reward model, and all numbers of the optimiser,
  since the paper's were not at hand.

  v6e:4x4 (16 chips): measured for an earlier version of `qwen3_8b`, of the same
  shapes without evaluations: 18.5 of 31.25 GiB.
  """
  return 'qwen3_8b', _rlmr('runs/rlmr_8b')


def rlmr_32b() -> tuple[str, dict[str, Any]]:
  """RLMR on Qwen2.5-32B, with the reward models of `rlmr_8b`.

  out=runs/rlmr_32b
  rlcw --config=papers:rlmr_32b --workdir=$out/grpo
  rlcw --config=evaluate --workdir=$out/evaluate --config.run=$out/grpo
  rlcw --config=generate --workdir=$out/answers --config.model=$out/grpo \
    --config.input=input_data.jsonl --config.temperature=0.0 \
    --config.max_new_tokens=2048
  rlcw --config=verify --workdir=$out/ifeval \
    --config.input=$out/answers/replies.jsonl --config.mode=benchmark
  rlcw --config=report --workdir=$out --config.evaluate=$out/evaluate

  The paper's: the size; its IFEval rose from 83.36 to 86.65, and experts
  preferred its writing in 72.75% of pairs.  Ours: as in `rlmr_8b`.

  v5p:2x2x4 (16 chips): measured for an earlier version of `qwen2_5_32b`, of the
  same shapes without evaluations: 62.1 of 95.74 GiB.
  """
  return 'qwen2_5_32b', _rlmr('runs/rlmr_8b')


def greetings_7b() -> tuple[str, dict[str, Any]]:
  """Igniting Creative Writing (arXiv 2508.21476), its first reward.

  The published data as `rlcw_greetings` in TFDS's folder for manual downloads
  (see docs/data.md), and a server at URL with a strong model, NAME there.

  out=runs/greetings data=tfds:rlcw_greetings
  rlcw --config=sft:qwen2_5_7b --workdir=$out/sft --config.language=zh \
    --config.examples=$data/sft
  # Pairs by debating agents; the published ones are $data/preferences.
  rlcw --config=curate --workdir=$out/pairs --config.language=zh \
    --config.queries=$data/briefs --config.corpus=$data/sft \
    --config.writer.model=$out/sft --config.agent.endpoint.url=URL \
    --config.agent.endpoint.model=NAME
  rlcw --config=reward_model:qwen2_5_7b --workdir=$out/reward_model \
    --config.lora.rank=16 --config.decoder.learning_rate=2e-4 \
    --config.language=zh --config.preferences=$out/pairs/preferences.jsonl
  rlcw --config=papers:greetings_7b --workdir=$out/grpo \
    --config.model=$out/sft
  rlcw --config=evaluate --workdir=$out/evaluate --config.run=$out/grpo
  rlcw --config=report --workdir=$out --config.evaluate=$out/evaluate

  The paper's: SFT, pairs by retrieval, debate, verdict and reflection, a reward
  model with adapters of rank 16 at 2e-4, then 32 briefs × 4 replies a step in
  two updates, 512 tokens, 3e-7, KL 0.001, five epochs; the writing reward
  alone.  Ours: Qwen2.5-7B, evaluation every 50 steps.

  v5e:4x4 (16 chips): measured for an earlier version, with one update and
  without evaluations: 13.3 of 15.75 GiB.
  """
  return 'greetings_7b', dict(eval_every=50, keep='best:eval/both')


def greetings_7b_judge() -> tuple[str, dict[str, Any]]:
  """Igniting Creative Writing, its second reward: a judge with principles.

  After the SFT of `greetings_7b`, with its server:

  out=runs/greetings data=tfds:rlcw_greetings
  rlcw --config=adversary --workdir=$out/adversary \
    --config.labelled=$data/labelled --config.construction=@construction_zh \
    --config.judge.principles=@principles_greetings_zh \
    --config.judge.language=zh --config.agents.endpoint.url=URL \
    --config.agents.endpoint.model=NAME
  rlcw --config=papers:greetings_7b_judge --workdir=$out/grpo_judge \
    --config.model=$out/sft --config.judge.endpoint.url=URL \
    --config.judge.endpoint.model=NAME
  rlcw --config=evaluate --workdir=$out/evaluate_judge \
    --config.run=$out/grpo_judge
  rlcw --config=report --workdir=$out/judge \
    --config.evaluate=$out/evaluate_judge

  The paper's: the game between a generator of flawed greetings and a detector,
  with reflection on labelled replies; the detector's principles are the judge's
  prompt, and its verdict is the reward.  Ours: the judge's probability of Good
  in place of the verdict, and principles that are kept only if agreement on
  replies held apart does not fall.

  v5e:4x4: as `greetings_7b`, less the reward model, since the judge is at an
  endpoint.
  """
  return 'greetings_7b', dict(
    writing='judge',
    judge=dict(
      principles='runs/greetings/adversary/principles.md', language='zh'
    ),
    eval_every=50,
    keep='best:eval/both',
  )


def _rlmr(out: str) -> dict[str, Any]:
  """Settings of both RLMR cards; briefs and scorers are in the folder `out`."""
  return dict(
    briefs=f'{out}/briefs/briefs.jsonl',
    reward_model=f'{out}/reward_model',
    mixing=dict(name='rlmr'),
    eval_every=20,
    keep='best:eval/both',
    eval=dict(unseen=f'{out}/unseen'),
  )


VARIANTS = {
  variant.__name__: variant
  for variant in (rlmr_8b, rlmr_32b, greetings_7b, greetings_7b_judge)
}


def get_config(variant: str = 'rlmr_8b') -> ConfigDict:
  """Returns the settings of a card: a model of configs/grpo.py, and changes."""
  check_variant(variant, VARIANTS)
  model, changes = VARIANTS[variant]()
  config = load(f'grpo:{model}')
  config.update(changes)
  return config
