"""A stand-in for gcloud and two workers of a TPU slice.

It remembers a queued resource, and runs what is sent to a worker in a folder
that is the worker's home.
"""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

SCRIPT = pathlib.Path(__file__).resolve().parents[1] / 'scripts' / 'tpu_vm.sh'

GCLOUD = """
import json, os, pathlib, shutil, subprocess, sys

file = pathlib.Path(os.environ['CLOUD'])
cloud = json.loads(file.read_text())
assert sys.argv[1:3] == ['compute', 'tpus']
group, verb, name, *rest = sys.argv[3:]
cloud['calls'].append(sys.argv[1:])
flags = dict(flag[2:].partition('=')[::2] for flag in sys.argv if '=' in flag)

def tell(states):
  if not states:
    file.write_text(json.dumps(cloud))
    sys.exit(f"ERROR: (gcloud) NOT_FOUND: Resource '{name}' was not found")
  print(states[0])
  if len(states) > 1:
    del states[0]

status = 0
if cloud['refuses']:
  file.write_text(json.dumps(cloud))
  sys.exit('ERROR: (gcloud) PERMISSION_DENIED: you may not')
elif (group, verb) == ('queued-resources', 'describe'):
  tell(cloud['request'])
elif (group, verb) == ('tpu-vm', 'describe'):
  tell(cloud['node'])
elif verb == 'create':
  assert not cloud['request'], 'it is there already'
  cloud['request'], cloud['node'] = cloud['granted'], ['READY']
elif verb == 'delete':
  cloud['request'], cloud['node'] = cloud['deleting'], []
else:
  homes = sorted((file.parent / 'homes').iterdir())
  if flags['worker'] != 'all':
    homes = homes[int(flags['worker']):][:1]
  for home in homes:
    if verb == 'scp':
      shutil.copy(name, home / rest[0].partition(':')[2])
    else:
      status |= subprocess.run(
        ['bash', '-c', flags['command']], env={**os.environ, 'HOME': str(home)}
      ).returncode
file.write_text(json.dumps(cloud))
sys.exit(status)
"""
# What a worker has: a share that is mounted once `mount` was called, and a
# Python that installs `uv`, which installs an `rlcw` that trains until it is
# told to end.
WORKER = {
  'sudo': '"$@"',
  'mount': 'echo "$@" >>~/mounted',
  'mount.nfs': '',
  'mountpoint': 'test -e ~/mounted',
  # its source is the third argument of `mount -t nfs SOURCE TARGET`
  'findmnt': "tail -n 1 ~/mounted | cut -d ' ' -f 3",
  'getent': '! true',
  'groupadd': 'echo "$@" >>~/groups',
  'usermod': 'echo "$@" >>~/groups',
  'chgrp': 'echo "$@" >>~/groups',
  'python3': """echo "$@" >>~/pip
    [ "$3" != install ] || cat >>~/pip
    mkdir -p ~/uv/bin
    cp "$(command -v uv)" ~/uv/bin/uv""",
  'uv': """echo "$@" >>~/uv/calls
    mkdir -p ~/rlcw/.venv/bin
    cat >~/rlcw/.venv/bin/rlcw <<'END'
#!/bin/bash
printf '%s\\n' "$@" >>runs/arguments
printf '%s\\0' "${TOLD-unset}" "${HF_TOKEN-unset}" >runs/environment
echo training
trap 'kill %1 2>/dev/null; echo saved; exit 0' TERM
sleep 60 &
wait
END
    chmod +x ~/rlcw/.venv/bin/rlcw""",
}


class Cloud:
  """The stand-in's state, and the script run against it."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._file = folder / 'cloud.json'
    binaries = folder / 'bin'
    binaries.mkdir()
    self.homes = [folder / 'homes' / str(n) for n in range(2)]
    for home in self.homes:
      home.mkdir(parents=True)
    programs = {name: f'#!/bin/bash\n{x}\n' for name, x in WORKER.items()}
    programs['gcloud'] = f'#!{sys.executable}\n{GCLOUD}'
    for name, text in programs.items():
      (binaries / name).write_text(text)
      (binaries / name).chmod(0o755)
    self._environment = {
      'PATH': f'{binaries}:{os.environ["PATH"]}',
      'CLOUD': str(self._file),
      'RLCW_PROJECT': 'p',
      'RLCW_ZONE': 'z',
      'RLCW_SHARE': '10.0.0.2:/vol1',
      'RLCW_POLL': '0',
    }
    self.set(request=[], node=[], granted=['ACTIVE'], deleting=[])
    self.set(calls=[], refuses=False)

  def set(self, **state: Any) -> None:
    """Changes what the stand-in remembers."""
    before = json.loads(self._file.read_text()) if self._file.exists() else {}
    self._file.write_text(json.dumps({**before, **state}))

  def calls(self) -> list[str]:
    """Group and verb of each call since the last time this was asked."""
    calls = json.loads(self._file.read_text())['calls']
    self.set(calls=[])
    return [' '.join(call[2:4]) for call in calls]

  def __call__(self, *arguments: str, **environment: str) -> Any:
    return subprocess.run(
      [SCRIPT, *arguments],
      env=self._environment | environment,
      capture_output=True,
      text=True,
      timeout=60,
    )
