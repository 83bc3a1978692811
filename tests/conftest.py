"""Eight CPU devices, and the models that tests share: one tiny, one real."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

# JAX reads these once, when it is first imported.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
  ]
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY_VOCAB = 300
CORPUS = [
  'The keeper of the lighthouse wrote a letter to the sea.',
  'The sea never wrote to the keeper, but the letter was there.',
]
CHATML = (
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
  "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope='session')
def make_llama() -> Callable[..., Any]:
  """A function that makes a random `LlamaForCausalLM`, from its settings."""

  def make(**settings: Any) -> Any:
    import torch
    import transformers

    settings = {
      'vocab_size': TINY_VOCAB,
      'hidden_size': 32,
      'intermediate_size': 64,
      'num_hidden_layers': 2,
      'num_attention_heads': 4,
      'num_key_value_heads': 2,
      'max_position_embeddings': 512,
      'tie_word_embeddings': True,
      'initializer_range': 0.2,  # wide enough for attention to matter
      'bos_token_id': None,
      'eos_token_id': 1,
    } | settings
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**settings)
    model = transformers.LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
      if 'norm' in name:  # ones would hide a scale that is not applied
        torch.nn.init.normal_(weight, 1.0, 0.2)
    return model

  return make


def _save_tokenizer(folder: pathlib.Path) -> None:
  import tokenizers
  import transformers
  from tokenizers import decoders, models, pre_tokenizers, trainers

  bpe = tokenizers.Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=TINY_VOCAB,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    special_tokens=['<|im_start|>', '<|im_end|>'],
    show_progress=False,
  )
  bpe.train_from_iterator(CORPUS, trainer)
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token='<|im_end|>', chat_template=CHATML
  )
  tokenizer.save_pretrained(folder)


@pytest.fixture(scope='session')
def tiny_folder(
  tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any]
) -> pathlib.Path:
  """A Hugging Face folder of a random tiny Llama and a ChatML tokenizer."""
  folder = tmp_path_factory.mktemp('tiny')
  make_llama().save_pretrained(folder)
  _save_tokenizer(folder)
  assert json.loads((folder / 'config.json').read_text())['vocab_size'] == (
    TINY_VOCAB
  )
  return folder


@pytest.fixture(scope='session')
def tiny(tiny_folder: pathlib.Path) -> Any:
  """The tiny Llama as `(ModelConfig, params)`."""
  from rlcw import weights

  return weights.load(tiny_folder)


@pytest.fixture(scope='session')
def smollm2_path() -> pathlib.Path:
  """The real model of the quickstart, as one GGUF file."""
  path = ROOT / 'models' / 'SmolLM2-135M-Instruct.Q4_1.gguf'
  if not path.exists():
    pytest.skip(f'{path} is absent: scripts/quickstart.sh fetches it')
  return path


@pytest.fixture(scope='session')
def smollm2(smollm2_path: pathlib.Path) -> Any:
  """The real model as `(ModelConfig, params)`."""
  import jax

  from rlcw import weights

  config, params = weights.load(smollm2_path)
  return config, jax.tree.map(jax.numpy.asarray, params)


@pytest.fixture(scope='session')
def smollm2_torch(smollm2_path: pathlib.Path) -> Any:
  """The real model as Transformers reads it from the same file."""
  import torch
  import transformers

  return transformers.AutoModelForCausalLM.from_pretrained(
    smollm2_path.parent, gguf_file=smollm2_path.name, dtype=torch.float32
  ).eval()
