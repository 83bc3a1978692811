"""GRPO with mixed rewards: write well and keep the rules.

  rlcw --config=configs/grpo.py --workdir=runs/quickstart/grpo

Needs the reward model of configs/reward_model.py.

A variant, as in `--config=configs/grpo.py:qwen2_5_7b`, says what is other than
in the quickstart; its docstring has its command, the slice that it is for, and
what a chip of it holds at most in any phase, as found by

  rlcw --config=configs/grpo.py:VARIANT --workdir=runs/plan/VARIANT \
    --config.task=plan

which compiles a step for the slice `plan.topology`; it needs no TPU and no
weights, but `pip install -e .[tpu]`.  The large ones have not been trained yet.

Cost: 32 steps of about 27 s on 2 CPU cores, 7 GiB of memory; with train=lora
23 s and 3 GiB.
Expect: in held-out briefs 45% of the replies keep every rule where 31% did;
max_violator_advantage below 0 in every step.
"""

from typing import Any

from ml_collections import ConfigDict

from rlcw.rewards.judge.factory import judge_settings

QWEN = 'Qwen/Qwen2.5-7B-Instruct'


def smollm2() -> dict[str, Any]:
  """The quickstart itself, on a laptop.

  rlcw --config=configs/grpo.py:smollm2 --workdir=runs/quickstart/grpo
  """
  return {}


def tiny() -> dict[str, Any]:
  """The quickstart in a minute, to see that everything works.

  rlcw --config=configs/grpo.py:tiny --workdir=runs/tiny
  """
  return dict(
    steps=2,
    prompts_per_step=2,
    group_size=4,
    microbatch_groups=1,
    max_new_tokens=16,
    checkpoint_every=1,
  )


def gemma3_270m() -> dict[str, Any]:
  """Gemma 3 270M, a base model that has to learn first what a reply is.

  ./scripts/gemma.sh
  rlcw --config=configs/sft.py --workdir=runs/gemma/sft \
    --config.model=models/gemma-3-270m.Q4_K_M.gguf
  rlcw --config=configs/grpo.py:gemma3_270m --workdir=runs/gemma/grpo \
    --config.model=runs/gemma/sft

  On a laptop; the writing reward is the quickstart's.
  """
  return dict(model='models/gemma-3-270m.Q4_K_M.gguf')


def large(model: str, topology: str, **other: Any) -> dict[str, Any]:
  """32 briefs of 8 replies of up to 2,048 tokens, in bfloat16 on a slice."""
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
      plan=dict(topology=topology, reward_model=QWEN),
    )
    | other
  )


def qwen2_5_7b() -> dict[str, Any]:
  """Qwen2.5-7B, with a reward model of the same size.

  rlcw --config=configs/reward_model.py --workdir=runs/large/reward_model \
    --config.model=Qwen/Qwen2.5-7B-Instruct --config.train=lora \
    --config.max_reply_tokens=2048
  rlcw --config=configs/grpo.py:qwen2_5_7b --workdir=runs/large/qwen2_5_7b

  v5e:4x4 (16 chips): 14.7 of 15.75 GiB.
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
  """The recipe of arXiv 2508.21476: Chinese greetings, 4 replies to 32 briefs.

  With the published data as `rlcw_greetings` in TFDS's folder for what is
  fetched by hand (see docs/data.md):

  data=tfds:rlcw_greetings
  rlcw --config=configs/sft.py --workdir=runs/greetings/sft \
    --config.model=Qwen/Qwen2.5-7B-Instruct --config.language=zh \
    --config.examples=$data/sft
  rlcw --config=configs/reward_model.py --workdir=runs/greetings/reward_model \
    --config.model=Qwen/Qwen2.5-7B-Instruct --config.train=lora \
    --config.lora.rank=16 --config.decoder.learning_rate=2e-4 \
    --config.language=zh --config.preferences=$data/preferences
  rlcw --config=configs/grpo.py:greetings_7b --workdir=runs/greetings/grpo \
    --config.model=runs/greetings/sft

  The other reward of the paper: `--config.writing=judge`, with a judge and with
  the principles that configs/adversary.py made.  Five epochs of the 3,200
  briefs that were published.  The paper makes two updates from each rollout,
  of 16 briefs each; here it is one.

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
    max_new_tokens=512,
    temperature=1.0,
    learning_rate=3e-7,
    kl_weight=1e-3,
    steps=500,
    plan=dict(topology='v5e:4x4', prompt_tokens=256, reward_model=QWEN),
  )


VARIANTS = {
  variant.__name__: variant
  for variant in (
    smollm2,
    tiny,
    gemma3_270m,
    qwen2_5_7b,
    qwen2_5_32b,
    qwen2_5_72b,
    qwen3_8b,
    llama3_8b,
    greetings_7b,
  )
}


def get_config(variant: str = 'smollm2') -> ConfigDict:
  if variant not in VARIANTS:
    raise ValueError(f'variant {variant!r}; legal: {list(VARIANTS)}')
  config = ConfigDict(
    dict(
      task='grpo',
      model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      briefs='@briefs.jsonl',
      language='en',
      seed=0,
      train='all',  # all | lora (with ten times the learning rate)
      lora=dict(
        rank=16,
        alpha=32.0,
        targets=('query', 'key', 'value', 'output', 'gate', 'up', 'down'),
      ),
      steps=32,
      # a step: prompts_per_step groups of group_size replies, learned from
      # microbatch_groups groups at a time
      prompts_per_step=8,
      group_size=8,
      microbatch_groups=4,
      max_new_tokens=64,
      temperature=0.7,
      writing='reward_model',  # reward_model | judge | module:function
      reward_model='runs/quickstart/reward_model',  # workdir of that run
      verifiers=('rules',),  # rules (of the brief, and its demands) and any
      # module:function
      judge=judge_settings(),  # writing='judge', the briefs' demands, and a
      # second opinion for `monitors` where writing is another
      mixing=dict(
        name='rlmr',  # rlmr | writing | constraint | linear | gate | gdpo
        margin=0.5,  # rlmr: in stds of the group's writing scores
        all_violating='skip',  # rlmr: suppress | rank | skip
        weight=1.0,  # linear, gdpo
      ),
      advantage_scale='reward_std',  # reward_std | none | writing_std (of
      # rlmr, writing, gate)
      ratio='token',  # token | sequence
      aggregation='token_mean',  # token_mean | sequence_mean | constant
      clip_low=0.2,
      clip_high=0.2,
      kl_weight=0.1,
      learning_rate=2e-5,
      warmup_steps=2,
      max_grad_norm=1.0,
      checkpoint_every=6,
      monitors=dict(  # of reward hacking; a warning where one is passed
        window=8,  # steps, whose mean is compared with that of the first ones
        length=1.5,  # times as long as at first, or as much shorter
        repetition=0.2,  # more of a reply is repeated than at first
        judge=0.2,  # less probably Good than at first while writing rises
        judge_every=2,  # steps: then `judge` reads a reply to each brief
        no_signal=0.75,  # share of groups whose advantages are all 0
        entropy=0.5,  # times that of the first steps
      ),
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
      rollout_table='decode',  # decode | train: how weights are split while
      # replies are sampled, whole over fsdp or as they are trained
      remat=True,  # recompute whole blocks in the backward pass: less memory,
      # more time; False: all but what products with weights gave
      compute_dtype='float32',  # float32 | bfloat16: of activations, of the
      # weights that replies are sampled with, and of all that is frozen
      # auto | xla: no kernels, whatever the platform. For where one fails: on
      # GPU and TPU none has run yet, they are only compiled for TPU
      attention='auto',
      moment_dtype='float32',  # float32 | bfloat16: Adam's first moment
      # frozen models wait in host memory until they score: a reward model on a
      # decoder of its own and, with train=all, the reference
      offload=False,
      plan=dict(  # of the task `plan` alone
        topology='v5e:4x4',
        prompt_tokens=1024,
        compare_attention=False,  # compile all with attention=xla as well
        # a model of the reward model's shapes; '' where the reference's pass
        # gives the writing score as well
        reward_model='',
      ),
    )
  )
  config.update(VARIANTS[variant]())
  return config
