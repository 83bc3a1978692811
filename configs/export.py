"""A run's model as a folder that `transformers`, vLLM and SGLang load.

  rlcw --config=configs/export.py --workdir=runs/quickstart/export

Cost: seconds.
Expect: runs/quickstart/export/model with config.json, safetensors, tokenizer.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='export',
      model='runs/quickstart/grpo',  # or a folder, a GGUF file, a Hub id
      adapters=False,  # of a run with train=lora: the adapters alone, for peft
      dtype='float32',  # float32 | bfloat16
      mesh=dict(data=1, fsdp=-1, tensor=1),  # -1: all devices that are left
    )
  )
