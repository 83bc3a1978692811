"""GRPO with mixed rewards: write well and keep the rules.

  rlcw --config=configs/grpo.py --workdir=runs/quickstart/grpo

Needs the reward model of configs/reward_model.py.

  rlcw --config=configs/grpo.py:qwen2_5_7b --workdir=runs/plan \
    --config.task=plan --config.plan.topology=v5e:4x4

says whether a TPU slice holds a step and what limits it; needs no TPU, but
`pip install -e .[tpu]`.  Variants: qwen2_5_7b, qwen2_5_32b, qwen2_5_72b.

Cost: 32 steps of about 27 s on 2 CPU cores, 7 GiB of memory; with train=lora
23 s and 3 GiB.
Expect: in held-out briefs 45% of the replies keep every rule where 31% did;
max_violator_advantage below 0 in every step.
"""

from ml_collections import ConfigDict

from rlcw.scoring import judge_settings

# What is other than in the quickstart: 32 briefs of 8 replies, in bfloat16.
_LARGE = dict(
  prompts_per_step=32,
  group_size=8,
  mesh=dict(data=1, fsdp=-1, tensor=4),
  microbatch_groups=4,
  max_new_tokens=2048,
  compute_dtype='bfloat16',
  moment_dtype='bfloat16',
  learning_rate=1e-6,
)
VARIANTS = {
  '': {},
  'qwen2_5_7b': _LARGE | dict(model='Qwen/Qwen2.5-7B-Instruct'),
  'qwen2_5_32b': _LARGE | dict(model='Qwen/Qwen2.5-32B-Instruct'),
  'qwen2_5_72b': _LARGE | dict(model='Qwen/Qwen2.5-72B-Instruct'),
}


def get_config(variant: str = '') -> ConfigDict:
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
      judge=judge_settings(),  # writing='judge', and the briefs' demands
      mixing=dict(
        name='rlmr',  # rlmr | writing | constraint | linear | gate | gdpo
        margin=0.5,  # rlmr: in stds of the group's writing scores
        all_violating='skip',  # rlmr: suppress | rank | skip
        weight=1.0,  # linear, gdpo
      ),
      advantage_scale='reward_std',  # reward_std | writing_std | none
      ratio='token',  # token | sequence
      aggregation='token_mean',  # token_mean | sequence_mean | constant
      clip_low=0.2,
      clip_high=0.2,
      kl_weight=0.1,
      learning_rate=2e-5,
      warmup_steps=2,
      max_grad_norm=1.0,
      checkpoint_every=6,
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
      remat=True,  # recompute blocks in the backward pass: memory for time
      compute_dtype='float32',  # float32 | bfloat16: of activations, of the
      # weights that replies are sampled with, and of all that is frozen
      # auto | xla: no kernels, whatever the platform. For where one fails: on
      # GPU and TPU none has run yet, they are only compiled for TPU
      attention='auto',
      moment_dtype='float32',  # float32 | bfloat16: Adam's first moment
      plan=dict(  # of the task `plan` alone
        topology='v5e:4x4',
        prompt_tokens=1024,
        compare_attention=False,  # compile all with attention=xla as well
        # a model of the reward model's shapes; '' where the reference's pass
        # gives the writing score as well
        reward_model='Qwen/Qwen2.5-7B-Instruct',
      ),
    )
  )
  config.update(VARIANTS[variant])
  return config
