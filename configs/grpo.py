r"""Trains with GRPO on mixed rewards: write well and keep the rules.

  rlcw --config=configs/grpo.py --workdir=runs/quickstart/grpo

Needs the reward model of configs/reward_model.py.

A variant, as in `--config=configs/grpo.py:qwen2_5_7b`, overrides some settings
of the quickstart.  Its docstring gives the command and, for large models, the
TPU slice and the peak HBM per chip over all phases of a step, measured by

  rlcw --config=configs/grpo.py:VARIANT --workdir=runs/plan/VARIANT \
    --config.task=plan

which compiles a step for the slice `plan.topology`.  It needs neither a TPU nor
weights, only `pip install -e .[tpu]`.  The large variants have not been trained
yet.

Cost: 32 steps of 20 to 30 s on 2 CPU cores, 7 GiB of memory; with train=lora
3 GiB.
Expect: 38 to 47% of the replies to held-out briefs keep every rule, 31% before
training; max_violator_advantage below 0 in every step.
"""

from typing import Any

from ml_collections import ConfigDict

from rlcw.models.compute import compute_settings, group_plan_settings
from rlcw.rewards.judge.factory import judge_settings
from rlcw.runtime.configs import vary
from rlcw.runtime.optimizers import optimizer_settings

QWEN = 'Qwen/Qwen2.5-7B-Instruct'


def smollm2() -> dict[str, Any]:
  """The quickstart, for a laptop.

  rlcw --config=configs/grpo.py:smollm2 --workdir=runs/quickstart/grpo
  """
  return {}


def tiny() -> dict[str, Any]:
  """A smoke test of the quickstart: two steps in about a minute.

  rlcw --config=configs/grpo.py:tiny --workdir=runs/tiny
  """
  return dict(
    steps=2,
    prompts_per_step=4,  # as many as a recipe has updates
    group_size=4,
    microbatch_groups=1,
    max_new_tokens=16,
    checkpoint_every=1,
  )


def gemma3_270m() -> dict[str, Any]:
  """Gemma 3 270M, a base model that needs SFT before GRPO.

  ./scripts/models.sh gemma3_270m
  rlcw --config=configs/sft.py --workdir=runs/gemma/sft \
    --config.model=models/gemma-3-270m.Q4_K_M.gguf
  rlcw --config=configs/grpo.py:gemma3_270m --workdir=runs/gemma/grpo \
    --config.model=runs/gemma/sft

  Runs on a laptop, with the quickstart's reward model.
  """
  return dict(model='models/gemma-3-270m.Q4_K_M.gguf')


def _qwen_coder(size: str, runs: str) -> dict[str, Any]:
  """Settings of a Qwen2.5-Coder, with its own reward model in `runs`."""
  return dict(
    model=f'models/Qwen2.5-Coder-{size}-Instruct.Q4_K_M.gguf',
    reward_model=f'{runs}/reward_model',
    train='lora',
    learning_rate=2e-4,
  )


def qwen_coder_0_5b() -> dict[str, Any]:
  """Qwen2.5-Coder-0.5B-Instruct with adapters; writes English and Chinese.

  ./scripts/models.sh qwen_coder_0_5b
  rlcw --config=configs/reward_model.py:qwen_coder_0_5b \
    --workdir=runs/qwen_0_5b/reward_model
  rlcw --config=configs/grpo.py:qwen_coder_0_5b --workdir=runs/qwen_0_5b/grpo

  For Chinese briefs add --config.language=zh to both.
  """
  return _qwen_coder('0.5B', 'runs/qwen_0_5b')


def qwen_coder_1_5b() -> dict[str, Any]:
  """Qwen2.5-Coder-1.5B-Instruct with adapters; writes English and Chinese.

  ./scripts/models.sh qwen_coder_1_5b
  rlcw --config=configs/reward_model.py:qwen_coder_1_5b \
    --workdir=runs/qwen_1_5b/reward_model
  rlcw --config=configs/grpo.py:qwen_coder_1_5b --workdir=runs/qwen_1_5b/grpo

  For Chinese briefs add --config.language=zh to both.
  """
  return _qwen_coder('1.5B', 'runs/qwen_1_5b')


def large(model: str, topology: str, **other: Any) -> dict[str, Any]:
  """Settings of the large variants: 32 briefs x 8 replies, bfloat16.

  Replies have up to 2,048 tokens.

  Args:
    model: Hub id of the policy.
    topology: TPU slice for the task `plan`, as in `v5e:4x4`.
    **other: settings that replace these.
  """
  return (
    dict(
      model=model,
      reward_model='runs/large/reward_model',
      prompts_per_step=32,
      group_size=8,
      mesh=dict(data=1, fsdp=-1, tensor=4),
      microbatch_groups=4,
      max_new_tokens=2048,
      compute_dtype='bfloat16',
      moment_dtype='bfloat16',
      learning_rate=1e-6,
      steps=200,
      # The reward model need not be trained yet for planning: only its shapes
      # matter, and it is the 7B model for every large policy.
      plan=dict(topology=topology, reward_model=QWEN),
    )
    | other
  )


def qwen2_5_7b() -> dict[str, Any]:
  """Qwen2.5-7B, with a reward model of the same size.

  rlcw --config=configs/reward_model.py:qwen2_5_7b \
    --workdir=runs/large/reward_model
  rlcw --config=configs/grpo.py:qwen2_5_7b --workdir=runs/large/qwen2_5_7b

  v5e:4x4 (16 chips): 13.4 of 15.75 GiB.
  """
  return large(QWEN, 'v5e:4x4')


def qwen2_5_32b() -> dict[str, Any]:
  """Qwen2.5-32B, with the 7B reward model of `qwen2_5_7b`.

  rlcw --config=configs/grpo.py:qwen2_5_32b --workdir=runs/large/qwen2_5_32b

  v5p:2x2x4 (16 chips): 62.1 of 95.74 GiB.
  """
  return large('Qwen/Qwen2.5-32B-Instruct', 'v5p:2x2x4')


def qwen2_5_72b() -> dict[str, Any]:
  """Qwen2.5-72B, with the 7B reward model of `qwen2_5_7b`.

  rlcw --config=configs/grpo.py:qwen2_5_72b --workdir=runs/large/qwen2_5_72b

  v5p:2x4x4 (32 chips): 64.5 of 95.74 GiB.
  """
  # By rollout_table='decode' sampling replicates the weights over fsdp, so only
  # the tensor axis shrinks the copy on each chip.
  mesh = dict(data=1, fsdp=-1, tensor=8)
  return large('Qwen/Qwen2.5-72B-Instruct', 'v5p:2x4x4', mesh=mesh)


def qwen3_8b() -> dict[str, Any]:
  """Qwen3-8B, with the 7B reward model of `qwen2_5_7b`.

  rlcw --config=configs/grpo.py:qwen3_8b --workdir=runs/large/qwen3_8b

  v6e:4x4 (16 chips): 18.5 of 31.25 GiB.
  """
  return large('Qwen/Qwen3-8B', 'v6e:4x4')


def llama3_8b() -> dict[str, Any]:
  """Llama 3.1 8B, with the 7B reward model of `qwen2_5_7b`.

  rlcw --config=configs/grpo.py:llama3_8b --workdir=runs/large/llama3_8b

  v6e:4x4 (16 chips): 17.8 of 31.25 GiB.
  """
  return large('meta-llama/Llama-3.1-8B-Instruct', 'v6e:4x4')


def greetings_7b() -> dict[str, Any]:
  """The recipe of arXiv 2508.21476: Chinese greetings, 32 briefs x 4 replies.

  Expects the published data as `rlcw_greetings` in TFDS's folder for manual
  downloads (see docs/data.md):

  data=tfds:rlcw_greetings
  rlcw --config=configs/sft.py:qwen2_5_7b --workdir=runs/greetings/sft \
    --config.language=zh --config.examples=$data/sft
  rlcw --config=configs/reward_model.py:qwen2_5_7b \
    --workdir=runs/greetings/reward_model \
    --config.lora.rank=16 --config.decoder.learning_rate=2e-4 \
    --config.language=zh --config.preferences=$data/preferences
  rlcw --config=configs/grpo.py:greetings_7b --workdir=runs/greetings/grpo \
    --config.model=runs/greetings/sft

  The paper's other reward is `--config.writing=judge`, with a judge and the
  principles produced by configs/adversary.py.  500 steps are five epochs of the
  3,200 published briefs, with two updates of 16 briefs each.

  v5e:4x4 (16 chips): 13.3 of 15.75 GiB.
  """
  return large(
    QWEN,
    'v5e:4x4',
    reward_model='runs/greetings/reward_model',
    briefs='tfds:rlcw_greetings/briefs',
    language='zh',
    mixing=dict(name='writing'),
    group_size=4,
    updates_per_rollout=2,
    max_new_tokens=512,
    temperature=1.0,
    learning_rate=3e-7,
    kl_weight=1e-3,
    steps=500,
    plan=dict(topology='v5e:4x4', prompt_tokens=256, reward_model=QWEN),
  )


# --- Recipes ----------------------------------------------------------------


def rlmr() -> dict[str, Any]:
  """RLMR's dynamic penalty (arXiv 2508.18642) with GRPO; the default.

  rlcw --config=configs/grpo.py:rlmr --workdir=runs/rlmr
  """
  return dict(mixing=dict(name='rlmr'))


def grpo() -> dict[str, Any]:
  """GRPO (arXiv 2402.03300): a weighted sum of rewards, mean per reply.

  rlcw --config=configs/grpo.py:grpo --workdir=runs/grpo
  """
  return dict(
    mixing=dict(name='linear'), aggregation='sequence_mean', kl_weight=0.04
  )


def dr_grpo() -> dict[str, Any]:
  """Dr. GRPO (arXiv 2503.20783): no division by std or length, no KL term.

  rlcw --config=configs/grpo.py:dr_grpo --workdir=runs/dr_grpo
  """
  return dict(
    mixing=dict(name='linear'),
    advantage_scale='none',
    aggregation='constant',
    kl_weight=0.0,
  )


def dapo() -> dict[str, Any]:
  """DAPO (arXiv 2503.14476): clip-higher, mean over tokens, dynamic sampling.

  The paper makes 16 updates per rollout, of 512 replies each; here it is 4, so
  that small steps divide.  Its overlong penalty is `overlong_buffer`, which
  there is a fifth of `max_new_tokens`; give it with the length of your replies.

  rlcw --config=configs/grpo.py:dapo --workdir=runs/dapo
  """
  return dict(
    mixing=dict(name='linear'),
    oversample=1.5,
    updates_per_rollout=4,
    clip_high=0.28,
    kl_weight=0.0,
  )


def gspo() -> dict[str, Any]:
  """GSPO (arXiv 2507.18071): one importance ratio per reply, four updates.

  rlcw --config=configs/grpo.py:gspo --workdir=runs/gspo
  """
  return dict(
    mixing=dict(name='linear'),
    updates_per_rollout=4,
    ratio='sequence',
    aggregation='sequence_mean',
    clip_low=3e-4,
    clip_high=4e-4,
    kl_weight=0.0,
  )


def gdpo() -> dict[str, Any]:
  """GDPO (arXiv 2601.05242): rewards normalised in their group and added.

  Their sum is whitened over the batch.

  rlcw --config=configs/grpo.py:gdpo --workdir=runs/gdpo
  """
  return dict(mixing=dict(name='gdpo'))


MODELS = (
  smollm2,
  tiny,
  gemma3_270m,
  qwen_coder_0_5b,
  qwen_coder_1_5b,
  qwen2_5_7b,
  qwen2_5_32b,
  qwen2_5_72b,
  qwen3_8b,
  llama3_8b,
  greetings_7b,
)
RECIPES = (rlmr, grpo, dr_grpo, dapo, gspo, gdpo)
VARIANTS = {variant.__name__: variant for variant in (*MODELS, *RECIPES)}


def get_config(variant: str = 'smollm2') -> ConfigDict:
  """Returns the settings of a variant.

  Args:
    variant: a name, or several joined by `+` such as `qwen2_5_7b+dapo`; later
      ones replace settings of earlier ones.

  Raises:
    ValueError: there is no such variant.
  """
  config = ConfigDict(
    dict(
      task='grpo',
      # --- Model and data
      # folder, GGUF file, Hub id or workdir of a run
      model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      briefs='@briefs.jsonl',  # prompts with rules, see docs/data.md
      # Whether to find the rules that prompts state in their own words, where
      # briefs list none; the result is briefs.jsonl in the workdir.
      extract_rules=False,
      language='en',  # briefs in others are left out
      heldout=0.1,  # share of the briefs whose records have no "split"
      system='',  # system message of briefs without their own
      seed=0,  # of the order of briefs, of replies and of new weights
      # --- Trained weights
      train='all',  # all | lora (then use ten times the learning rate)
      lora=dict(
        rank=16,  # of the adapters
        alpha=32.0,  # adapters are scaled by alpha / rank
        # projections that have adapters
        targets=('query', 'key', 'value', 'output', 'gate', 'up', 'down'),
      ),
      # --- Steps
      steps=32,  # rollouts; may grow when a finished run is continued
      prompts_per_step=8,  # briefs
      group_size=8,  # replies to each brief
      # Above 1, replies are sampled to so many times more briefs, and those are
      # dropped whose rewards are all equal: they teach nothing.
      oversample=1.0,
      # Updates in each step.  Those of a rollout share its groups equally.
      updates_per_rollout=1,
      # Groups of each update, where passes over a rollout are to repeat: with
      # prompts_per_step every update is a pass; 0 for equal shares.
      minibatch_groups=0,
      # Gradients are accumulated over microbatches of so many briefs, which
      # bounds the memory of the update and does not change its result.
      microbatch_groups=4,
      max_new_tokens=64,  # longer replies are cut, and count as violations
      temperature=0.7,  # of sampling
      # Whether briefs end with a note on how replies are scored (MeRF, arXiv
      # 2506.18485), in training alone: scorers and evaluations read plain ones.
      tell_scoring=False,
      # Whether the policy first replies to the request without the rules that
      # are added to it, and then rewrites its reply by them (arXiv 2405.14655).
      # The second reply is scored; both, and the second request between them,
      # have max_new_tokens together.
      two_turns=False,
      # --- Rewards
      # Writing score: reward_model, judge (its P(Good)), judge_logit (the
      # log-odds of that), pairs (that the judge compares), rubric (of the
      # briefs), diversity (in the group), your module:function, or several with
      # weights, as in
      # '0.7*reward_model + 0.3*judge - 0.2*my_rewards:cliches'.
      writing='reward_model',
      # How the judge compares replies of a group, each pair in both orders: for
      # the part pairs, in which a reply's score is its mean probability to be
      # better, and for refit.
      pairs=dict(
        # round: each meets some others; pivot: all meet one, drawn per group
        mode='round',
        opponents=2,  # of each reply, for round; at most group_size - 1
      ),
      # Several parts are added in standard deviations within their group;
      # False: in their own units.
      normalise_parts=True,
      # The reward of a reply falls linearly by up to 1 over so many tokens
      # before max_new_tokens, as in DAPO; 0 for off.
      overlong_buffer=0,
      reward_model='runs/quickstart/reward_model',  # workdir of that run
      # Whether the head of the reward model follows the policy: it is fitted to
      # its own pairs and those of replies that the judge compares meanwhile.
      refit=dict(
        every=0,  # steps between comparisons; 0: never
        share=0.5,  # of the compared pairs in the weights of all
      ),
      # `rules` checks the rules and demands of each brief; `module:function`
      # adds a verifier of your own.
      verifiers=('rules',),
      # Scores replies with writing='judge' and answers for the demands and
      # rubrics of briefs.  With another writing score it is a second opinion,
      # which `monitors` compares with that score.
      judge=judge_settings(),
      # --- Advantages and loss
      mixing=dict(
        # rlmr | rlmr_bonus | rlmr_clip | writing | constraint | linear | gate |
        # quality_gate | gdpo
        name='rlmr',
        # rlmr…: distance of the best violator below the group's mean reward, in
        # standard deviations of the group's writing scores
        margin=0.5,  # at least 0.001
        # only rlmr…, for groups in which every reply breaks a rule (suppress:
        # all advantages negative, rank: by writing alone, skip: advantages of
        # 0, relabel: learn from a brief with the rules that some replies keep)
        all_violating='skip',
        weight=1.0,  # of the rules, for linear and gdpo
        # A reply that breaks any rule violates wholly; or by the share of its
        # rules that it breaks (constraint, linear, quality_gate and gdpo).
        violation='any',  # any | share
        # Subtracted from a violator's advantage at the tokens that break a
        # rule, for rules that can point to them; 0 for none.
        located_penalty=0.0,
      ),
      # Weight of the reply that a brief has in its record (`response`, or of a
      # pair `chosen`), which is learned from beside the group if it is better
      # (RIL, arXiv 2510.19307); 0: none is.
      demonstration_weight=0.0,
      # steps in which demonstration_weight grows linearly from 0
      demonstration_warmup=0,
      # What a group's advantages are divided by: reward_std (of its mixed
      # rewards, as in GRPO), none, or writing_std (of its writing scores; only
      # with rlmr, rlmr_bonus, writing and gate).  rlmr_clip and gdpo give
      # advantages themselves.
      advantage_scale='reward_std',
      # Importance ratio: of each token (GRPO) or of whole replies (GSPO).
      ratio='token',  # token | sequence
      # Average of the loss: token_mean over all tokens of a step, sequence_mean
      # over replies of their mean, constant as token_mean but divided by the
      # tokens that replies of full length would have (Dr. GRPO).
      aggregation='token_mean',  # token_mean | sequence_mean | constant
      clip_low=0.2,  # ratios below 1 - clip_low have no gradient
      clip_high=0.2,  # ratios above 1 + clip_high have no gradient
      # Above 1, ratios above it have no gradient for negative advantages (3 in
      # arXiv 1912.09729); 0: no bound.
      dual_clip=0.0,
      # Truncated importance sampling: tokens are weighted by the ratio of the
      # trainer's probability to that of the sampler, whose program differs, but
      # at most by this (2 in Yao et al., 2025); 0: no weights.
      tis=0.0,
      # Penalty on leaving the reference (the model before training).  k3 pulls
      # towards KL(reference | policy): keep all that the reference may write;
      # k2 towards KL(policy | reference): write nothing that it would not.
      kl='k3',  # k3 | k2
      kl_weight=0.1,  # 0: no reference is computed or kept in memory
      entropy_weight=0.0,  # reward for a policy of high entropy
      # --- Optimiser
      **optimizer_settings(learning_rate=2e-5, warmup_steps=2),
      checkpoint_every=6,  # steps
      # --- Evaluation while it trains
      # Steps between evaluations on held-out briefs; 0 for none.  Metrics
      # eval/… are in the row of the step before; docs/evaluation.md has more.
      eval_every=0,
      initial_eval=False,  # also evaluate the model before the first step
      # newest: the two newest checkpoints; best:METRIC, such as best:eval/both:
      # beside them the best parameters, in the folder best of the workdir,
      # which evaluate, generate and export take as a model or run.
      keep='newest',
      # Evaluations without a better METRIC of keep after which the run ends; 0:
      # it never does.
      patience=0,
      eval=dict(
        briefs=0,  # so many of the held-out briefs; 0: all
        replies_per_brief=1,  # above 1 only at a temperature above 0
        temperature=0.0,  # 0: greedy
        batch_size=32,  # briefs at a time
        # A reward model that training does not use, as in compare; '' for none.
        unseen='',
      ),
      # --- Shown while it runs
      # Steps between samples, printed and logged: a brief with its best and its
      # worst reply; 0 for never.
      show_every=10,
      # Where metrics go besides metrics.jsonl: tensorboard | wandb | trackio,
      # several with commas.
      loggers=('tensorboard',),
      # --- Monitors
      # Thresholds for signs of reward hacking; crossing one logs a warning.
      # Means over the last `window` steps are compared with the first ones.
      monitors=dict(
        stop=False,  # whether a warning ends the run; the same command goes on
        window=4,  # steps
        length=1.5,  # replies this many times as long, or shorter by its square
        repetition=0.2,  # rise of the repeated share of a reply
        copied=0.2,  # rise of the share of a reply that its brief has
        phrase=0.3,  # rise of the share of replies that have one phrase
        marks=0.03,  # rise of the share of marks for effect, such as ! and *
        judge=0.2,  # fall of P(Good) while the writing score rises
        judge_every=2,  # steps between judgements of one reply to each brief
        no_signal=0.75,  # share of groups whose advantages are all about 0
        entropy=0.5,  # ratio to the first steps
        # of evaluations: distance in standard deviations by which the score
        # that trains outruns the unseen one, if that does not rise
        gap=0.5,
      ),
      # --- Memory
      # Sharding of the weights during sampling.  decode: replicated over fsdp,
      # because every token reads every weight; train: sharded as in training;
      # wide: as decode, but the MLPs and the vocabulary, the largest weights,
      # are split over tensor and fsdp, between which activations travel then.
      # The task `plan` compares decode and wide.
      rollout_table='decode',  # decode | train | wide
      # Keep frozen models in host memory until they score replies: a reward
      # model with its own decoder and, with train=all, the reference.
      offload=False,
      # read by the task `plan` alone
      plan=group_plan_settings()
      | dict(
        # the reward model's run, or a model of its shapes; '' if it shares the
        # reference's decoder, so that one pass computes both
        reward_model='',
        unseen='',  # the same for eval.unseen
      ),
    )
    | compute_settings()
  )
  return vary(config, variant, VARIANTS)
