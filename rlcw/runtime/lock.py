"""A lock on a workdir, which one process at a time may write to.

The system releases it when the process ends, however it ends.  It also holds
between hosts that share a folder by NFS.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from rlcw.runtime import console

FILE = 'run.lock'


class Busy(ValueError):
  """Raised when another process writes to the workdir."""


@contextlib.contextmanager
def held(workdir: Path) -> Iterator[None]:
  """Holds the lock of a workdir in the context, and makes the folder.

  Raises:
    Busy: another process holds it; names the process.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  # Nothing can be written there, as to a finished run that was published.
  if not os.access(workdir, os.W_OK):
    yield
    return
  # Without a buffer, which a full disk would let no one close.
  with (workdir / FILE).open('a+b', buffering=0) as opened:
    try:
      # Unlike `flock`, it is not inherited by a forked process, which may
      # outlive this one.
      fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno in (errno.EACCES, errno.EAGAIN):
        raise Busy(f'{workdir} is in use by {_name(_read(opened))}') from None
      console.log(
        f'{workdir} cannot be locked ({error.strerror}): make sure that no '
        'other process writes to it'
      )
    # Some file systems, such as gcsfuse, lock among the processes of one host
    # alone.  A run that ended well has left no record.
    if (record := _read(opened)) and record['host'] != socket.gethostname():
      console.log(
        f'{workdir} was last written to by {_name(record)}, which did not end '
        'well, or still runs where hosts do not share locks: then stop it'
      )
    _write(opened, _own_record())
    try:
      yield
    finally:
      _write(opened, {})


def _own_record() -> dict[str, Any]:
  now = datetime.datetime.now().astimezone().isoformat(' ', 'seconds')
  return {'host': socket.gethostname(), 'pid': os.getpid(), 'since': now}


def _write(opened: BinaryIO, record: dict[str, Any]) -> None:
  # Into the open file: closing another one of this path would release the lock.
  # The lock holds without the record, which a full disk has no room for.
  with contextlib.suppress(OSError):
    opened.truncate(0)
    opened.write(json.dumps(record).encode() if record else b'')


def _read(opened: BinaryIO) -> dict[str, Any]:
  """Returns the record of the process that holds or last held the lock."""
  opened.seek(0)
  try:
    record = json.loads(opened.read())
    return {key: record[key] for key in ('host', 'pid', 'since')}
  except (ValueError, KeyError, TypeError):  # blank, or being written
    return {}


def _name(record: dict[str, Any]) -> str:
  if not record:
    return 'another process'
  return 'process {pid} on {host} since {since}'.format(**record)
