"""Writing reward: a head on a frozen decoder, from preference pairs.

  rlcw --config=configs/reward_model.py --workdir=runs/quickstart/reward_model

Cost: about a minute on 2 CPU cores.
Expect: 99% of held-out pairs right, where length alone gets 49%.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='reward_model',
      model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      preferences='@preferences.jsonl',
      language='en',
      seed=0,
      train='head',  # head | lora | all
      pooling='mean',  # mean | last (as sequence classifiers, for export)
      broken_tokens=0.3,  # share of tokens replaced in a broken reply
      pairs_per_pass=8,
      steps=300,
      learning_rate=1e-2,
      l2=1e-2,  # on the weights of standardised features
      # with train=lora or all, the decoder after the head:
      lora=dict(
        rank=16,
        alpha=32.0,
        targets=('query', 'key', 'value', 'output', 'gate', 'up', 'down'),
      ),
      decoder=dict(
        steps=56,
        pairs_per_step=8,
        learning_rate=1e-4,
        warmup_steps=4,
        max_grad_norm=1.0,
        checkpoint_every=14,
      ),
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
      remat=True,
    )
  )
