"""What `endurance.py` runs: a tiny model, briefs, a judge, a process."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BRIEFS, POISONED = 24, 7  # how many, and which of them has wild rewards
CHATML = (
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
  "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def writing(
  briefs: Sequence[Any], replies: Sequence[Sequence[str]]
) -> list[list[float]]:
  """The runs' reward: more vowels are better, and one brief is beyond measure.

  Such rewards lie too far apart for a float: the gradient is not finite.
  """
  return [
    [-3e38, 3e38] * (len(group) // 2)
    if brief.id == f'brief-{POISONED}'
    else [sum(letter in 'aeiou' for letter in reply) / 8 for reply in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]


def make_model(folder: Path) -> None:
  """A tiny random Llama, and a tokenizer of single bytes."""
  import jax
  import tokenizers
  import transformers
  from flax import linen as nn
  from tokenizers import decoders, models, pre_tokenizers

  from rlcw.models import weights
  from rlcw.models.config import ModelConfig

  special = ['<|im_start|>', '<|im_end|>']
  names = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
  bpe = tokenizers.Tokenizer(
    models.BPE({name: n for n, name in enumerate(names)}, [])
  )
  bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  bpe.decoder = decoders.ByteLevel()
  bpe.add_special_tokens(special)
  header = {
    'model_type': 'llama',
    'vocab_size': len(names),
    'hidden_size': 32,
    'intermediate_size': 64,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'rms_norm_eps': 1e-5,
    'rope_theta': 1e4,
    'tie_word_embeddings': True,
    'eos_token_id': 1,
  }
  config = ModelConfig.from_hf(header)
  params = nn.unbox(weights.init_params(config, jax.random.key(0)))
  folder.mkdir(parents=True)
  weights.save(config, params, folder, 'float32')
  (folder / 'config.json').write_text(json.dumps(header))
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token=special[1], chat_template=CHATML
  ).save_pretrained(folder)


def make_briefs(file: Path) -> None:
  """Briefs with a rule, and a demand that the judge has to answer for."""
  lines = [
    {
      'id': f'brief-{n}',
      'prompt': f'Write line {n}.',
      'instruction_id_list': ['punctuation:no_exclamation', 'soft:demand'],
      'kwargs': [{}, {'demand': 'It shall be calm.'}],
    }
    for n in range(BRIEFS)
  ]
  file.write_text(''.join(json.dumps(line) + '\n' for line in lines))


class Judge:
  """An OpenAI-compatible server whose verdicts follow from the prompt."""

  def __init__(self):
    self.moody = False  # whether half of the prompts get no answer
    self.port, self._server = 0, None
    self.rise()

  def rise(self) -> None:
    """Serves, on the port that it had before."""
    judge = self

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_POST(self) -> None:
        size = int(self.headers['content-length'])
        status, answer = judge.answer(json.loads(self.rfile.read(size)))
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

      def log_message(self, format: str, *args: Any) -> None:
        pass

    address = '127.0.0.1', self.port
    self._server = http.server.ThreadingHTTPServer(address, Handler)
    self.port = self._server.server_port
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def die(self) -> None:
    """From now on connections are refused."""
    self._server.shutdown()
    self._server.server_close()

  def answer(self, request: Any) -> tuple[int, Any]:
    """The HTTP status, and the answer: Pass or Fail, or Good or Bad."""
    prompt = request['messages'][0]['content']
    digest = hashlib.sha256(prompt.encode()).digest()
    if self.moody and digest[0] % 2:
      return 500, {'error': 'not in the mood'}
    key, *labels = re.findall(
      r'"id": "(\w+)", "verdict": "(\w+)" or "(\w+)"', prompt
    )[-1]
    verdict = {'id': key, 'verdict': labels[digest[1] % 2], 'reason': ''}
    message = {'role': 'assistant', 'content': json.dumps(verdict)}
    choice = {'index': 0, 'message': message, 'finish_reason': 'stop'}
    return 200, {
      'id': 'x',
      'object': 'chat.completion',
      'created': 0,
      'model': 'm',
      'choices': [choice],
    }


class Run:
  """A run in a process of its own, which may be started again and again."""

  def __init__(self, folder: Path, settings: dict[str, Any]):
    self.folder, self.settings = folder, settings
    self.log = folder.with_suffix('.log')
    self.log.touch()
    self.process: Any = None
    self.before = 0, 0  # bytes of the log, inode of the metrics

  def start(self) -> None:
    """Begins, or goes on."""
    paths = ROOT, ROOT / 'scripts', os.environ.get('PYTHONPATH', '')
    environment = os.environ | {
      'PYTHONPATH': ':'.join(map(str, paths)),
      # the tiny programs, too, are compiled once for all processes
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    command = [
      *(sys.executable, '-m', 'rlcw.main'),
      f'--config={ROOT / "configs" / "grpo.py"}',
      f'--workdir={self.folder}',
      *(f'--config.{name}={value}' for name, value in self.settings.items()),
    ]
    self.before = self.log.stat().st_size, self._inode()
    with self.log.open('ab') as log:
      self.process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log
      )

  def said(self) -> str:
    """What the process has printed."""
    return self.log.read_bytes()[self.before[0] :].decode(errors='replace')

  def end(self, number: int | None = None) -> int:
    """The exit code of the process, which is sent a signal or left alone."""
    if number is not None:
      self.process.send_signal(number)
    return self.process.wait(600)

  def done(self) -> int:
    """How many steps have been told."""
    file = self.folder / 'metrics.jsonl'
    return file.read_bytes().count(b'\n') if file.exists() else 0

  def begin(self) -> None:
    """Waits until the process has forgotten what it will do again."""
    while self._inode() in (0, self.before[1]):
      self.rest()

  def reach(self, step: int) -> None:
    """Waits until the process has told a step."""
    self.begin()
    while self.done() < step:
      self.rest()

  def reach_save(self) -> None:
    """Waits until the process has begun to save."""
    while not self.saving():
      self.rest(0.0005)

  def rest(self, seconds: float = 0.02) -> None:
    """Waits.

    Raises:
      RuntimeError: the process has ended.
    """
    if self.process.poll() is not None:
      raise RuntimeError(f'ended with {self.end()}: {self.said()[-2000:]}')
    time.sleep(seconds)

  def saved(self) -> list[int]:
    """Steps with a checkpoint, the newest last."""
    names = [path.name for path in (self.folder / 'checkpoints').glob('*')]
    return sorted(int(name) for name in names if name.isdecimal())

  def saving(self) -> bool:
    """Whether a save was begun and not ended."""
    return any((self.folder / 'checkpoints').glob('*tmp*'))

  def _inode(self) -> int:
    file = self.folder / 'metrics.jsonl'
    return file.stat().st_ino if file.exists() else 0


def expect(held: bool, what: str) -> None:
  """Raises RuntimeError where something did not hold."""
  if not held:
    raise RuntimeError(f'not so: {what}')
