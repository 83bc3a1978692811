"""Eight CPU devices, and the models that tests share: one tiny, one real."""

import functools
import gc
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import hypothesis
import pytest

# JAX reads these once, when it is first imported.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['XLA_FLAGS'] = ' '.join(
  [
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # compiling is most of the work, and what is compiled runs for moments
    '--xla_backend_optimization_level=0',
    # fusions go to LLVM at once, not through MLIR; all in one module of it
    '--xla_cpu_use_fusion_emitters=false',
    '--xla_cpu_parallel_codegen_split_count=1',
  ]
)

# Threads of torch and NumPy would wait for each other in two processes.
os.environ.setdefault('OMP_NUM_THREADS', '1')

# Tracing makes many objects, few of which are garbage in cycles.
gc.set_threshold(20_000, 20, 20)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile(
  'any_machine',
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile('any_machine')

# Tests in two processes may compile for a TPU at the same time.
os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'

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


_SETTINGS = {
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
  'pad_token_id': 0,
}
_WINDOW = {'num_hidden_layers': 3, 'sliding_window': 6}
_LLAMA3 = {
  'rope_parameters': {
    'rope_type': 'llama3',
    'rope_theta': 10_000.0,
    'factor': 8.0,
    'low_freq_factor': 1.0,
    'high_freq_factor': 4.0,
    'original_max_position_embeddings': 8,
  }
}
_LINEAR = {
  'rope_parameters': {
    'rope_type': 'linear',
    'rope_theta': 10_000.0,
    'factor': 4.0,
  }
}
# What transformers calls a family, and the settings that make it peculiar.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
  'llama': ('Llama', {}),
  'llama3': ('Llama', _LLAMA3),
  'llama-linear': ('Llama', _LINEAR),
  'r1-distill-llama': ('Llama', _LLAMA3 | {'tie_word_embeddings': False}),
  'qwen2': ('Qwen2', {}),
  'qwen2-window': (
    'Qwen2',
    _WINDOW | {'use_sliding_window': True, 'max_window_layers': 1},
  ),
  'r1-distill-qwen': ('Qwen2', {'tie_word_embeddings': False}),
  'qwen3': ('Qwen3', {'head_dim': 12}),
  'gemma3': (
    'Gemma3Text',
    _WINDOW
    | {
      'head_dim': 12,
      'query_pre_attn_scalar': 10,
      'layer_types': [
        'sliding_attention',
        'full_attention',
        'sliding_attention',
      ],
      'rope_parameters': {
        'full_attention': {
          'rope_type': 'linear',
          'rope_theta': 1e6,
          'factor': 8.0,
        },
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 500.0},
      },
    },
  ),
}

_YARN = {
  'rope_type': 'yarn',
  'rope_theta': 10_000.0,
  'factor': 4.0,
  'original_max_position_embeddings': 8,
}
_GEMMA4 = {
  'initializer_range': 0.1,  # float32 loses more digits in six layers
  'num_hidden_layers': 6,
  'sliding_window': 6,
  'head_dim': 12,
  'global_head_dim': 16,
  'layer_types': [
    *('sliding_attention', 'sliding_attention', 'full_attention') * 2
  ],
  'rope_parameters': {
    'full_attention': {
      'rope_type': 'proportional',
      'rope_theta': 10_000.0,
      'partial_rotary_factor': 0.5,
    },
    'sliding_attention': {'rope_type': 'default', 'rope_theta': 500.0},
  },
}
# The same of families with fewer tests, every peculiarity of which is on.
MODERN: dict[str, tuple[str, dict[str, Any]]] = {
  'qwen2-yarn': ('Qwen2', {'rope_parameters': _YARN}),
  'llama-dynamic': (
    'Llama',
    {
      'rope_parameters': {
        'rope_type': 'dynamic',
        'rope_theta': 10_000.0,
        'factor': 2.0,
      }
    },
  ),
  'mistral': (
    'Mistral',
    {'sliding_window': 6, 'head_dim': 12, 'tie_word_embeddings': False},
  ),
  'ministral': (
    'Ministral',
    _WINDOW
    | {
      'head_dim': 12,
      'layer_types': [
        'full_attention',
        'sliding_attention',
        'sliding_attention',
      ],
    },
  ),
  'ministral3': (
    'Ministral3',
    {
      'head_dim': 12,
      'tie_word_embeddings': False,
      'rope_parameters': _YARN
      | {'mscale': 1.0, 'mscale_all_dim': 0.5, 'llama_4_scaling_beta': 0.5},
    },
  ),
  'smollm3': (
    'SmolLM3',
    _WINDOW
    | {
      'num_hidden_layers': 4,
      'no_rope_layer_interval': 2,
      'use_sliding_window': True,
    },
  ),
  'olmo2': ('Olmo2', {'tie_word_embeddings': False}),
  'olmo3': (
    'Olmo3',
    _WINDOW
    | {
      'num_hidden_layers': 4,
      'rope_parameters': {
        'full_attention': _YARN | {'attention_factor': 1.2},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 500.0},
      },
    },
  ),
  'granite': (
    'Granite',
    {
      'embedding_multiplier': 3.0,
      'attention_multiplier': 0.25,
      'residual_multiplier': 0.5,
      'logits_scaling': 2.0,
    },
  ),
  'phi3': (
    'Phi3',
    {
      'sliding_window': 6,
      'original_max_position_embeddings': 64,
      'tie_word_embeddings': False,
      'rope_parameters': {
        'rope_type': 'longrope',
        'rope_theta': 10_000.0,
        'partial_rotary_factor': 0.75,
        'short_factor': [1.0, 1.5, 2.0],
        'long_factor': [3.0, 4.0, 5.0],
      },
    },
  ),
  'gemma4': (
    'Gemma4Text',
    _GEMMA4
    | {
      'hidden_size_per_layer_input': 0,
      'attention_k_eq_v': True,
      'num_global_key_value_heads': 1,
      'final_logit_softcapping': 3.0,
    },
  ),
  'gemma4-unified': (
    'Gemma4UnifiedText',
    _GEMMA4 | {'attention_k_eq_v': True, 'num_global_key_value_heads': 1},
  ),
  'gemma4-small': (
    'Gemma4Text',
    _GEMMA4
    | {
      'hidden_size_per_layer_input': 6,
      'vocab_size_per_layer_input': TINY_VOCAB,
      'num_kv_shared_layers': 3,
      'use_double_wide_mlp': True,
    },
  ),
  'gemma2': (
    'Gemma2',
    _WINDOW
    | {
      'head_dim': 12,
      'query_pre_attn_scalar': 10,
      'attn_logit_softcapping': 2.0,
      'final_logit_softcapping': 3.0,
    },
  ),
}


@pytest.fixture(scope='session')
def make_model() -> Callable[..., Any]:
  """A function that makes a random model of a family, with any settings.

  Its `head` says what stands on the decoder, as transformers names it.
  """

  def make(family: str, head: str = 'ForCausalLM', **settings: Any) -> Any:
    import torch
    import transformers

    name, peculiar = (FAMILIES | MODERN)[family]
    config = getattr(transformers, f'{name}Config')(
      **_SETTINGS | peculiar | settings
    )
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    kind = getattr(transformers, f'AutoModel{head}')
    model = kind.from_config(config, attn_implementation='eager').eval()
    for key, weight in model.named_parameters():
      # ones and zeros would hide what is not applied
      if 'norm' in key:
        mean = float(name not in ('Gemma2', 'Gemma3Text'))
        torch.nn.init.normal_(weight, mean, 0.2)
      elif 'bias' in key:
        torch.nn.init.normal_(weight, 0.0, 0.2)
    for key, factor in model.named_buffers():
      if key.endswith('layer_scalar'):
        torch.nn.init.uniform_(factor, 0.5, 1.5)
    return model

  return make


@pytest.fixture(scope='session')
def make_llama(make_model: Callable[..., Any]) -> Callable[..., Any]:
  """A function that makes a random `LlamaForCausalLM`, from its settings."""
  return functools.partial(make_model, 'llama')


@pytest.fixture(scope='session')
def whole(
  make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
  """An undamaged folder of one file, to be copied and damaged."""
  folder = tmp_path_factory.mktemp('whole')
  make_model('llama3').save_pretrained(folder)
  return folder


@pytest.fixture(scope='session', params=['llama3', 'gemma3'])
def gguf_file(
  request: pytest.FixtureRequest,
  make_model: Callable[..., Any],
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  """An undamaged GGUF file with arrays in its header."""
  import checkpoints
  import corruption

  def arrays(writer: Any, _: dict[str, Any]) -> None:
    writer.add_token_list(['a', 'b', 'c'])
    writer.add_token_scores([0.0, 1.0, 2.0])
    writer.add_array('tokenizer.ggml.bytes', b'abc')

  path = tmp_path_factory.mktemp('gguf') / 'x.gguf'
  if request.param == 'llama3':
    return corruption.llama3_gguf(make_model, path, arrays)
  return checkpoints.write_gguf(path, make_model('gemma3'), arrays)


def _save_tokenizer(
  folder: pathlib.Path, corpus: Sequence[str] = CORPUS
) -> None:
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
  bpe.train_from_iterator(corpus, trainer)
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
def make_judge(
  make_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], pathlib.Path]:
  """A function that makes a folder of a random tiny model of a family.

  Its tokenizer begins each label of a judge with another token, and so it can
  answer questions.
  """

  @functools.cache
  def make(family: str) -> pathlib.Path:
    from rlcw.rewards.judge.questions import LABELS

    folder = tmp_path_factory.mktemp('judge')
    model = make_model(family, max_position_embeddings=4096)
    model.save_pretrained(folder)
    labels = [f'So: {label}' for pair in LABELS.values() for label in pair]
    _save_tokenizer(folder, labels * 9)
    return folder

  return make


@pytest.fixture(scope='session')
def apprentice(
  tmp_path_factory: pytest.TempPathFactory, make_llama: Callable[..., Any]
) -> pathlib.Path:
  """A folder of the tiny model of tests/tiny_grpo.py."""
  from tiny_grpo import save

  return save(
    tmp_path_factory.mktemp('apprentice'), make_llama, _save_tokenizer
  )


@pytest.fixture(scope='session')
def library_folder(
  tiny_folder: pathlib.Path,
  make_judge: Callable[[str], pathlib.Path],
  tmp_path_factory: pytest.TempPathFactory,
) -> pathlib.Path:
  """A folder with the models and runs of tests/library.py."""
  import library

  folder = tmp_path_factory.mktemp('library')
  library.build(folder, tiny_folder, make_judge('llama3'))
  return folder


@pytest.fixture
def in_library(
  library_folder: pathlib.Path,
  one_device: None,
  monkeypatch: pytest.MonkeyPatch,
) -> pathlib.Path:
  """That folder as the working directory."""
  monkeypatch.chdir(library_folder)
  return library_folder


@pytest.fixture
def one_device() -> Iterator[None]:
  """See `pipeline.one_device`."""
  import pipeline

  with pipeline.one_device():
    yield


@pytest.fixture(scope='session', autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> None:
  """What one test compiled serves the others, in every process of this run."""
  import jax

  # Processes of xdist have a folder each in the run's.  Entries are found by
  # the folder's name too, so it must be one for all.
  folder = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    folder = folder.parent
  jax.config.update('jax_compilation_cache_dir', str(folder / 'xla'))


@pytest.fixture(scope='session')
def tiny(tiny_folder: pathlib.Path) -> Any:
  """The tiny Llama as `(ModelConfig, params)`."""
  from rlcw.models import weights

  return weights.load(tiny_folder)


@pytest.fixture(scope='session')
def smollm2_path() -> pathlib.Path:
  """The real model of the quickstart, as one GGUF file."""
  path = ROOT / 'models' / 'SmolLM2-135M-Instruct.Q4_1.gguf'
  if not path.exists():
    pytest.skip(f'{path} is absent: scripts/quickstart.sh fetches it')
  return path


@pytest.fixture(scope='session')
def gemma_path() -> pathlib.Path:
  """A real base model of another family, as one GGUF file."""
  path = ROOT / 'models' / 'gemma-3-270m.Q4_K_M.gguf'
  if not path.exists():
    pytest.skip(f'{path} is absent: scripts/models.sh gemma3_270m fetches it')
  return path
