"""Writing reward: a head on a frozen decoder, from preferences.

  rlcw --config=configs/reward_model.py --workdir=runs/quickstart/reward_model

Cost: about a minute on 2 CPU cores.
Expect: 99% of held-out pairs right, where length alone gets 49%; a picture of
score against length, and of calibration, in reward_model.png.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='reward_model',
      model='models/SmolLM2-135M-Instruct.Q4_1.gguf',
      # JSONL of {"prompt", "chosen", "rejected"}, or of {"prompt", "response",
      # "score"}, with "language" and "split" where there are such
      preferences='@preferences.jsonl',
      language='en',  # or '' for all
      heldout=0.1,  # share of prompts, where records name no split
      least_gap=0.0,  # between the scores of replies that make a pair
      seed=0,
      train='head',  # head | lora | all
      pooling='mean',  # mean | last (as sequence classifiers, for export)
      # none; balance: the longer reply is the better one half of the time;
      # length: what length explains is fitted apart, and scores nothing
      debias='none',
      made_losers=True,  # to each prompt one broken and one looping reply
      replies_per_group=4,  # made losers included
      max_reply_tokens=512,  # longer ones are cut
      batch_size=8,
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
        groups_per_step=8,
        learning_rate=1e-4,
        warmup_steps=4,
        max_grad_norm=1.0,
        checkpoint_every=14,
      ),
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
      remat=True,
    )
  )
