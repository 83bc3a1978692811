"""Fixtures of `endurance.py`: tiny model, briefs, judge server, run process."""

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
BRIEFS = 24  # number of briefs
POISONED = 7  # index of the brief whose rewards make the gradient non-finite
CHATML = (
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + "
  "message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Environment variables of a run: the path of a file, seconds.
HANG, CLOCK = 'ENDURANCE_HANG', 'ENDURANCE_CLOCK'
if float(os.environ.get(CLOCK, 0)):
  _now, _jump = time.time, float(os.environ[CLOCK])
  time.time = lambda: _now() + _jump


def writing(
  briefs: Sequence[Any], replies: Sequence[Sequence[str]]
) -> list[list[float]]:
  """Reward function of the runs: the number of vowels, divided by 8.

  Replies to the brief `POISONED` get -3e38 and 3e38 in turn, which are let
  through here.  Their difference overflows float32, so that the gradient is not
  finite.  It hangs as long as the file exists that `HANG` names.

  Args:
    briefs: P briefs.
    replies: replies, `[P][G]`.

  Returns:
    Rewards `[P][G]`.
  """
  hang = Path(os.environ[HANG])
  while hang.exists():
    hang.with_suffix('.hanging').touch()
    time.sleep(0.05)
  # Not at the top: other processes import this module for its fixtures.
  from rlcw.rewards import writing

  writing.LARGEST = 3.1e38
  return [
    [-3e38, 3e38] * (len(group) // 2)
    if brief.id == f'brief-{POISONED}'
    else [sum(letter in 'aeiou' for letter in reply) / 8 for reply in group]
    for brief, group in zip(briefs, replies, strict=True)
  ]


def make_model(folder: Path) -> None:
  """Saves a tiny random Llama and a byte-level tokenizer to a new folder."""
  import jax
  import tokenizers
  import transformers
  from flax import linen as nn
  from tokenizers import decoders, models, pre_tokenizers

  from rlcw.models import weights
  from rlcw.models.config import ModelConfig

  # No merges: every byte is a token, so no tokenizer has to be trained.
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
  # With these files the folder is a complete Hugging Face model.
  weights.save(config, params, folder, 'float32')
  (folder / 'config.json').write_text(json.dumps(header))
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=bpe, eos_token=special[1], chat_template=CHATML
  ).save_pretrained(folder)


def make_briefs(file: Path) -> None:
  """Writes briefs with one rule and one demand, which needs the judge."""
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
  """OpenAI-compatible server with deterministic verdicts.

  A verdict is a function of the prompt, so that a run that is interrupted and
  one that is not get the same answers.
  """

  def __init__(self):
    self.failing = False  # if true, half of the prompts get HTTP status 500
    self.port, self._server = 0, None
    self.start()

  def start(self) -> None:
    """Starts serving; a restarted server keeps its port."""
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

      # The base class would log every request to stderr.
      def log_message(self, format: str, *args: Any) -> None:
        pass

    # Port 0 lets the system choose a free one at the first start.
    address = '127.0.0.1', self.port
    self._server = http.server.ThreadingHTTPServer(address, Handler)
    self.port = self._server.server_port
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def stop(self) -> None:
    """Stops serving: connections are refused from now on."""
    self._server.shutdown()
    self._server.server_close()

  def answer(self, request: Any) -> tuple[int, Any]:
    """Returns the HTTP status and body for a chat completion request."""
    prompt = request['messages'][0]['content']
    # The prompt names the JSON fields and both labels (Pass and Fail, or Good
    # and Bad); the reply that it quotes comes earlier, hence the last match.
    key, *labels = re.findall(
      r'"id": "(\w+)", "verdict": "(\w+)" or "(\w+)"', prompt
    )[-1]
    # Without the id, which differs from run to run.
    digest = hashlib.sha256(prompt.replace(key, '').encode()).digest()
    if self.failing and digest[0] % 2:
      return 500, {'error': 'simulated failure'}
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
  """A GRPO run as a child process that can be restarted.

  Args:
    folder: the workdir; its log is beside it, with the suffix `.log`.
    settings: overrides of configs/grpo.py.
  """

  def __init__(self, folder: Path, settings: dict[str, Any]):
    self.folder, self.settings = folder, settings
    self.log = folder.with_suffix('.log')
    # A run that has not started yet has an empty log.
    self.log.touch()
    self.process: Any = None
    self.hang = folder.with_suffix('.hang')  # the reward hangs if it exists
    self.hanging = folder.with_suffix('.hanging')  # made by the reward then
    self.clock = 0  # seconds that the clock of the next process is ahead
    # At the last start: size of the log, inode of metrics.jsonl.
    self.before = 0, 0

  def start(self) -> None:
    """Starts the process, which resumes from the newest checkpoint if any."""
    paths = ROOT, ROOT / 'scripts', os.environ.get('PYTHONPATH', '')
    environment = os.environ | {
      'PYTHONPATH': ':'.join(map(str, paths)),
      # Cache even programs that compile quickly: every process needs them.
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      HANG: str(self.hang),
      CLOCK: str(self.clock),
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

  def output(self) -> str:
    """Output of the process since its last start."""
    return self.log.read_bytes()[self.before[0] :].decode(errors='replace')

  def wait(self, signal: int | None = None) -> int:
    """Waits for the end of the process, after sending a signal if one is given.

    Returns:
      The exit code.

    Raises:
      TimeoutExpired: it still runs after 10 minutes.
    """
    if signal is not None:
      self.process.send_signal(signal)
    return self.process.wait(600)

  def steps(self) -> int:
    """Number of steps in metrics.jsonl."""
    file = self.folder / 'metrics.jsonl'
    return file.read_bytes().count(b'\n') if file.exists() else 0

  def wait_for_resume(self) -> None:
    """Waits until the process has dropped the metrics past its checkpoint.

    It rewrites metrics.jsonl at its start, so the file gets a new inode.  Until
    then, the file still has steps that will be repeated.
    """
    while self._inode() in (0, self.before[1]):
      self.sleep()

  def wait_for_step(self, step: int) -> None:
    """Waits until the process has written the metrics of a step."""
    self.wait_for_resume()
    while self.steps() < step:
      self.sleep()

  def wait_for_save(self) -> None:
    """Waits until the process has begun to write a checkpoint."""
    # A save takes milliseconds, so poll faster than elsewhere.
    while not self.is_saving():
      self.sleep(0.0005)

  def sleep(self, seconds: float = 0.02) -> None:
    """Sleeps while the process runs.

    Raises:
      RuntimeError: the process has ended.
    """
    if self.process.poll() is not None:
      raise RuntimeError(
        f'the run ended with exit code {self.wait()}: {self.output()[-2000:]}'
      )
    time.sleep(seconds)

  def checkpoints(self) -> list[int]:
    """Steps with a complete checkpoint, in ascending order."""
    names = [path.name for path in (self.folder / 'checkpoints').glob('*')]
    return sorted(int(name) for name in names if name.isdecimal())

  def is_hanging(self) -> bool:
    """Returns whether the reward hangs."""
    return self.hanging.exists()

  def is_saving(self) -> bool:
    """Returns whether an incomplete checkpoint exists."""
    # Orbax writes to a temporary folder and renames it when it is complete.
    return any((self.folder / 'checkpoints').glob('*tmp*'))

  def _inode(self) -> int:
    file = self.folder / 'metrics.jsonl'
    return file.stat().st_ino if file.exists() else 0


def expect(condition: bool, description: str) -> None:
  """Raises RuntimeError with the description if the condition is false."""
  if not condition:
    raise RuntimeError(f'expected: {description}')
