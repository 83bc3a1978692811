"""Secrets of runs, and ids of questions that no reply can know.

The answer to a question must repeat its id, so an id that is computed from
public texts alone would be known to whoever can compute as much: a reply could
spell out an answer about itself.  Ids are therefore keyed with a secret.

A cache finds an answer by its whole prompt, which contains the id: the secret
is kept beside the cache, so that all runs that share a cache share its answers
too.  Without a cache it is kept in the workdir, so that a resumed run asks the
same questions.
"""

import contextlib
import hmac
import os
import re
import secrets
from pathlib import Path

from rlcw.runtime import files

ID = r'[0-9a-f]{16}'  # 8 bytes in hexadecimal
_SECRET = re.compile('[0-9a-f]{64}')
# For judges that are made without a cache or a workdir.
PROCESS = secrets.token_bytes(32)


def make_id(secret: bytes, question: str) -> str:
  """Returns the id of a question, as `ID` describes it."""
  # Half of a surrogate pair cannot be encoded otherwise.
  message = question.encode('utf-8', 'surrogatepass')
  return hmac.digest(secret, message, 'sha256')[:8].hex()


def load(cache: Path | str | None, workdir: Path | None) -> bytes:
  """Returns the secret of a cache or a run, and makes it if there is none.

  Args:
    cache: path of an SQLite file, whose secret is `CACHE.secret`; if empty or
      None, the secret is the workdir's.
    workdir: of the run; None for the secret of this process.

  Raises:
    ValueError: the file of the secret is damaged.
  """
  if cache:
    file = Path(f'{cache}.secret')
  elif workdir is not None and workdir.is_dir():
    file = workdir / 'judge.secret'
  else:
    return PROCESS
  file.parent.mkdir(parents=True, exist_ok=True)
  if file.exists():
    return _read(file)
  made = file.with_name(f'{file.name}.{os.getpid()}.partial')
  try:
    # Readable by its owner alone, whatever the umask is.
    handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with files.naming(made), os.fdopen(handle, 'w') as opened:
      opened.write(secrets.token_hex(32))
    # Of several processes that start together one makes the file, and no other
    # ever sees a part of it.
    with contextlib.suppress(FileExistsError):
      _link(made, file)
  finally:
    made.unlink(missing_ok=True)
  return _read(file)


def _link(made: Path, file: Path) -> None:
  """Gives a file its name, unless there is one; raises FileExistsError."""
  try:
    os.link(made, file)
  except FileExistsError:
    raise
  except OSError:  # a file system without links, such as a bucket's
    os.replace(made, file)


def _read(file: Path) -> bytes:
  text = file.read_text('ascii', 'replace')
  if not _SECRET.fullmatch(text):
    raise ValueError(
      f'{file}: expected 64 hexadecimal digits; delete it, and answers in the '
      'cache will be asked for again'
    )
  return bytes.fromhex(text)
