r"""Exports a run's model as a folder for `transformers`, vLLM and SGLang.

  rlcw --config=configs/export.py --workdir=runs/mine/export \
    --config.model=runs/mine/grpo

Cost: seconds.
Expect: runs/mine/export/model with config.json, safetensors, tokenizer.
"""

from ml_collections import ConfigDict

from rlcw.models.compute import mesh_settings


def get_config() -> ConfigDict:
  return ConfigDict(
    dict(
      task='export',
      model='runs/quickstart/grpo',  # or a folder, a GGUF file, a Hub id
      # True, for runs with train=lora: the adapters alone, in peft's format;
      # False: adapters are merged into the base weights
      adapters=False,
      dtype='float32',  # float32 | bfloat16
    )
    | mesh_settings()
  )
