"""What the tests of damaged checkpoints share."""

import contextlib
import pathlib
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import checkpoints
import gguf
import pytest

from rlcw.models import weights

LLAMA3 = {
  'rope_type': 'llama3',
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 8,
  'rope_theta': 1e4,
}
GgufEdit = Callable[[gguf.GGUFWriter, checkpoints.Tensors], None]


def refuses(path: pathlib.Path, *parts: str) -> None:
  """Loading ends in an error that names the path and all of the parts."""
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    weights.load(path)
  for part in (str(path), *parts):
    assert part in str(error.value)


def copy(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
  """A folder to damage."""
  return pathlib.Path(shutil.copytree(folder, to / 'copy'))


def llama3_gguf(
  make_model: Callable[..., Any], path: pathlib.Path, edit: GgufEdit
) -> pathlib.Path:
  """A GGUF file whose positions are stretched as GGUF can say."""
  rope = LLAMA3 | {
    'rope_theta': 5e5,
    'original_max_position_embeddings': 8192,
  }
  theirs = make_model(
    'llama3', rope_parameters=rope, max_position_embeddings=2**17
  )
  return checkpoints.write_gguf(path, theirs, edit)


def damaged(content: bytes, damages: list[tuple[int, int, bytes]]) -> bytes:
  """At each place some bytes gone, and others there instead."""
  for at, gone, new in damages:
    content = content[:at] + new + content[at + gone :]
  return content


class _Hang(BaseException):
  """Beyond the reach of an `except Exception`."""


@contextlib.contextmanager
def bounded(seconds: float = 3.0, megabytes: int = 300) -> Iterator[None]:
  """Fails what takes longer on the processor, or much more memory."""

  def stop(*_: Any) -> NoReturn:
    raise _Hang(f'longer than {seconds} s')

  def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

  before, handler = peak(), signal.signal(signal.SIGPROF, stop)
  signal.setitimer(signal.ITIMER_PROF, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, handler)
  assert peak() - before < megabytes
