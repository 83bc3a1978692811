"""scripts/tpu_vm.sh against a gcloud that is none: calls, states, workers."""

import pathlib
import re
import shlex
import subprocess
import tarfile
import time
from collections.abc import Callable

import pytest
from fake_gcloud import Cloud

ROOT = pathlib.Path(__file__).resolve().parents[1]
COMMANDS = ('create', 'setup', 'run', 'logs', 'status', 'stop', 'delete')


@pytest.fixture
def cloud(tmp_path: pathlib.Path) -> Cloud:
  return Cloud(tmp_path)


LOOK = 'queued-resources describe'
NODE = 'tpu-vm describe'
CREATE = 'queued-resources create'
DELETE = 'queued-resources delete'


def _dry(cloud: Cloud, *arguments: str) -> list[list[str]]:
  """The calls that a dry run prints, each as its arguments."""
  done = cloud(*arguments[:1], '--dry-run', *arguments[1:])
  assert done.returncode == 0, done.stderr
  assert cloud.calls() == []
  lines = done.stdout.splitlines()
  assert all(line.startswith('gcloud compute tpus ') for line in lines)
  # the shell that would run them reads them back
  echo = [f'printf "%s\\0" {line}; echo' for line in lines]
  read = subprocess.run(
    ['bash', '-c', '\n'.join(echo)], capture_output=True, check=True
  )
  calls = read.stdout.decode().split('\0\n')[:-1]
  return [call.split('\0')[3:] for call in calls]


PLACE = ['--project=p', '--zone=z']


def test_dry_create(cloud: Cloud) -> None:
  look = ['describe', 'rlcw', '--format=value(state.state)', *PLACE]
  assert _dry(cloud, 'create', '--spot') == [
    ['queued-resources', *look],
    [
      'queued-resources',
      'create',
      'rlcw',
      '--node-id=rlcw',
      '--accelerator-type=v5litepod-16',
      '--runtime-version=v2-alpha-tpuv5-lite',
      '--spot',
      *PLACE,
    ],
    ['queued-resources', *look],
    ['tpu-vm', 'describe', 'rlcw', '--format=value(state)', *PLACE],
  ]


def test_dry_calls_of_the_others(cloud: Cloud) -> None:
  copy, install = _dry(cloud, 'setup', '--name=n')
  to_all = ['--worker=all', '--quiet']
  assert copy == [
    'tpu-vm',
    'scp',
    'rlcw.tar.gz',
    'n:rlcw.tar.gz',
    *to_all,
    *PLACE,
  ]
  assert install[:5] == ['tpu-vm', 'ssh', 'n', *to_all]
  assert install[5].startswith('--command=commit=')
  assert ' share=10.0.0.2:/vol1\n' in install[5]
  assert "-e ~/rlcw'[tpu]'\n" in install[5]

  asked = '--config.examples=a file.jsonl'
  (run,) = _dry(cloud, 'run', '--', '--config=configs/sft.py', asked)
  assert run[:5] == ['tpu-vm', 'ssh', 'rlcw', *to_all]
  first = run[5].removeprefix('--command=').splitlines()[0]
  assert shlex.split(first) == ['set', '--', '--config=configs/sft.py', asked]

  (logs,) = _dry(cloud, 'logs', '--worker=3')
  assert logs[2:5] == ['rlcw', '--worker=3', '--quiet']
  assert logs[5] == '--command=tail -n 50 -F ~/rlcw.log'
  status = [call[:2] for call in _dry(cloud, 'status')]
  assert status == [LOOK.split(), NODE.split(), ['tpu-vm', 'ssh']]
  (stop,) = _dry(cloud, 'stop')
  assert 'kill -TERM' in stop[5]
  look, delete = _dry(cloud, 'delete')
  assert look[:2] == LOOK.split()
  assert delete == [*DELETE.split(), 'rlcw', '--force', '--quiet', *PLACE]


@pytest.mark.parametrize(
  ('accelerator', 'runtime'),
  [
    ('v5litepod-256', 'v2-alpha-tpuv5-lite'),
    ('v5p-8', 'v2-alpha-tpuv5'),
    ('v6e-8', 'v2-alpha-tpuv6e'),
  ],
)
def test_software_of_each_generation(
  cloud: Cloud, accelerator: str, runtime: str
) -> None:
  asked = f'--accelerator={accelerator}'
  call = _dry(cloud, 'create', asked)[1]
  assert f'--accelerator-type={accelerator}' in call
  assert f'--runtime-version={runtime}' in call
  assert '--spot' not in call
  call = _dry(cloud, 'create', asked, '--runtime=my-own')[1]
  assert '--runtime-version=my-own' in call


@pytest.mark.parametrize(
  'accelerator', ['v5e-16', 'v5litepod-12', 'v6e', 'v5p-12', 'v5p-x', 'v5p-']
)
def test_unknown_accelerators(cloud: Cloud, accelerator: str) -> None:
  done = cloud('create', f'--accelerator={accelerator}')
  assert done.returncode == 1
  assert accelerator in done.stderr
  assert 'expected v5litepod-N or v6e-N (1, 4, 8, 16' in done.stderr
  assert cloud.calls() == []


@pytest.mark.parametrize(
  ('arguments', 'environment', 'told'),
  [
    ([], {}, 'expected one of: create setup run logs status stop delete'),
    (['start'], {}, "'start' is unknown; expected one of: create setup"),
    (['create', '--sport'], {}, '--sport is unknown; expected --project='),
    (['create'], {'RLCW_PROJECT': ''}, '--project=… (or RLCW_PROJECT) is mis'),
    (['create'], {'RLCW_ZONE': ''}, 'for example --zone=us-central1-a'),
    (['create', '--', 'x'], {}, 'create takes no arguments: x'),
    (['setup'], {'RLCW_SHARE': ''}, '--share=… (or RLCW_SHARE) is missing'),
    (['setup'], {'RLCW_SHARE': 'gs://b'}, 'is no NFS share; expected IP:/VOL'),
    (['run'], {}, 'arguments of rlcw are missing, for example run --'),
    (['logs', '--worker=-1'], {}, 'expected a number from 0, or all'),
    (['run', '--env=1A=b', '--', 'x'], {}, '--env=1A; expected NAME or'),
    (['run', '--env==b', '--', 'x'], {}, '--env=; expected NAME or'),
    (['run', '--env=a b=c', '--', 'x'], {}, '--env=a b; expected NAME or'),
    (['run', '--env=ABSENT', '--', 'x'], {}, 'no such variable here'),
    (['run', '--env'], {}, '--env; expected NAME or NAME=VALUE after it'),
    (['stop', '--env=A=b'], {}, 'stop takes no --env'),
  ],
)
def test_errors_say_what_is_legal(
  cloud: Cloud, arguments: list[str], environment: dict[str, str], told: str
) -> None:
  done = cloud(*arguments, **environment)
  assert done.returncode == 1
  assert told in done.stderr
  assert cloud.calls() == []


def test_create_waits_until_ready(cloud: Cloud) -> None:
  waiting = ['WAITING_FOR_RESOURCES', 'WAITING_FOR_RESOURCES', 'PROVISIONING']
  cloud.set(granted=[*waiting, 'ACTIVE'])
  done = cloud('create')
  assert done.returncode == 0, done.stderr
  assert cloud.calls() == [LOOK, CREATE, *[LOOK] * 4, NODE]
  states = ['absent', *waiting[1:], 'ready']  # each change is told once
  assert done.stdout.splitlines() == [f'rlcw: {state}' for state in states]


def test_create_leaves_what_is_there(cloud: Cloud) -> None:
  cloud.set(request=['ACTIVE'], node=['STARTING', 'READY'])
  assert cloud('create').returncode == 0
  assert cloud.calls() == [LOOK, NODE, LOOK, NODE]


@pytest.mark.parametrize(
  ('request_state', 'node'),
  [
    ('SUSPENDED', []),
    ('FAILED', []),
    ('ACTIVE', ['PREEMPTED']),
    ('ACTIVE', ['TERMINATED']),
    ('ACTIVE', []),
  ],
)
def test_create_replaces_what_is_gone(
  cloud: Cloud, request_state: str, node: list[str]
) -> None:
  cloud.set(request=[request_state], node=node)
  assert cloud('create', '--spot').returncode == 0
  look = [LOOK, NODE] if request_state == 'ACTIVE' else [LOOK]
  assert cloud.calls() == [*look, DELETE, LOOK, CREATE, LOOK, NODE]


def test_create_waits_for_a_preemption_to_end(cloud: Cloud) -> None:
  cloud.set(request=['SUSPENDING', 'SUSPENDED'])
  assert cloud('create').returncode == 0
  assert cloud.calls() == [LOOK, LOOK, DELETE, LOOK, CREATE, LOOK, NODE]


def test_create_gives_up_on_a_request_that_fails(cloud: Cloud) -> None:
  cloud.set(granted=['PROVISIONING', 'FAILED'])
  done = cloud('create')
  assert done.returncode == 1
  assert 'queued-resources describe rlcw' in done.stderr
  assert cloud.calls() == [LOOK, CREATE, LOOK, LOOK]


@pytest.mark.parametrize('command', ['create', 'status', 'delete'])
def test_an_error_of_gcloud_is_no_absence(cloud: Cloud, command: str) -> None:
  cloud.set(refuses=True)
  done = cloud(command)
  assert done.returncode == 1
  assert 'PERMISSION_DENIED' in done.stderr
  assert cloud.calls() == [LOOK]


def test_delete(cloud: Cloud) -> None:
  cloud.set(request=['ACTIVE'], node=['READY'])
  assert cloud('delete').returncode == 0
  assert cloud.calls() == [LOOK, DELETE]
  done = cloud('delete')
  assert done.stdout == 'rlcw: absent\n'
  assert cloud.calls() == [LOOK]


def _wait_for(condition: Callable[[], bool]) -> None:
  deadline = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(0.05)


def _logs(cloud: Cloud) -> list[str]:
  return [(home / 'rlcw.log').read_text() for home in cloud.homes]


@pytest.fixture
def ready(cloud: Cloud) -> Cloud:
  """The same after `create` and `setup`."""
  cloud.set(request=['ACTIVE'], node=['READY'])
  done = cloud('setup')
  assert done.returncode == 0, done.stderr
  assert cloud.calls() == ['tpu-vm scp', 'tpu-vm ssh']
  return cloud


def test_setup_installs_the_commit_once(ready: Cloud) -> None:
  commit = subprocess.run(
    ['git', '-C', ROOT, 'rev-parse', 'HEAD'], capture_output=True, text=True
  ).stdout
  for home in ready.homes:
    with tarfile.open(home / 'rlcw.tar.gz') as archive:
      assert 'pyproject.toml' in archive.getnames()
    assert (home / 'rlcw' / '.ready').read_text() == commit
    assert (home / 'rlcw' / 'runs').resolve() == home / 'share' / 'runs'
    assert (home / 'mounted').read_text() == (
      f'-t nfs 10.0.0.2:/vol1 {home}/share\n'
    )
  assert ready('setup').returncode == 0
  for home in ready.homes:
    assert (
      len((home / 'uv' / 'calls').read_text().splitlines()) == 2
    )  # venv, install
    assert len((home / 'mounted').read_text().splitlines()) == 1


def test_setup_refuses_another_share_than_the_mounted(ready: Cloud) -> None:
  # a slash at the end names the same folder
  assert ready('setup', RLCW_SHARE='10.0.0.2:/vol1/').returncode == 0
  other = ready('setup', RLCW_SHARE='10.0.0.2:/vol2')
  assert other.returncode == 1
  told = '~/share is 10.0.0.2:/vol1: unmount it for 10.0.0.2:/vol2'
  assert other.stderr.count(told) == 2
  for home in ready.homes:
    assert len((home / 'mounted').read_text().splitlines()) == 1


def test_a_job_starts_once_and_stops(ready: Cloud) -> None:
  arguments = ['--config=configs/grpo.py', '--config.x=two words']
  started = ready('run', '--', *arguments)
  try:
    assert started.returncode == 0, started.stderr
    assert started.stdout.count(': started') == 2
    _wait_for(lambda: all('training' in log for log in _logs(ready)))
    again = ready('run', '--', *arguments)
    assert again.stdout.count('a job runs already; nothing started') == 2
    for home in ready.homes:  # here each has a share of its own
      told = home / 'share' / 'runs' / 'arguments'
      assert told.read_text().splitlines() == ['--distributed', *arguments]
    assert ready('status').stdout.count(': a job runs; training') == 2
    (ready.homes[1] / 'rlcw' / '.ready').write_text('another commit')
    changed = ready('setup')  # not under a job's feet
    assert changed.returncode == 1
    assert changed.stderr.count('a job runs; stop it first') == 1
  finally:
    stopped = ready('stop')
  assert stopped.stdout.count(': no job runs') == 2
  ended = 'training\nsaved\nrlcw ended with status 0\n'
  assert _logs(ready) == [ended] * 2
  assert ready('status').stdout.count('no job runs; rlcw ended with') == 2
  assert ready('stop').returncode == 0


def test_setup_trusts_a_pinned_installer_and_a_group(ready: Cloud) -> None:
  script = (ROOT / 'scripts' / 'tpu_vm.sh').read_text()
  assert not re.search(r'\b(curl|wget)\b', script)
  assert not re.search(r'\|\s*(sudo\s+)?(ba)?sh\b', script)
  assert not re.search(r'umask 0*$|umask 0*\s|0?777|o\+w|a\+w', script)
  for home in ready.homes:
    *_, install, package = (home / 'pip').read_text().splitlines()
    assert f'--target {home}/uv --require-hashes' in install
    assert re.fullmatch(
      r'uv==\d+\.\d+\.\d+( --hash=sha256:[0-9a-f]{64})+', package
    )
    assert (home / 'groups').read_text().splitlines()[0] == '--gid 7210 rlcw'
    for path in [home / 'share', *(home / 'share').rglob('*'), home / 'rlcw']:
      assert not path.stat().st_mode & 0o002, path
    assert (home / 'share' / 'runs').stat().st_mode & 0o7777 == 0o2770


VALUES = (
  'plain',
  'two words',
  '',
  'a"b\'c',
  '$HOME `id` $(id) \\ \\n !x',
  'line\nline\n\n',
  '雨 \t*?[a]{b}~;&|<>#',
  'a=b=c',
)


@pytest.mark.parametrize('value', VALUES)
def test_variables_reach_every_worker_and_no_log(
  value: str, ready: Cloud
) -> None:
  secret = 'hf_$ecret "x" \n y'
  started = ready(
    *('run', '--env', f'TOLD={value}', '--env=HF_TOKEN'),
    *('--', '--config=configs/grpo.py'),
    HF_TOKEN=secret,
  )
  try:
    assert started.returncode == 0, started.stderr
    _wait_for(lambda: all('training' in log for log in _logs(ready)))
    for home in ready.homes:
      told = (home / 'share' / 'runs' / 'environment').read_bytes()
      assert told.decode().split('\0') == [value, secret, '']
      assert not (home / 'rlcw.env').exists()
    seen = [started.stdout, started.stderr, *_logs(ready)]
    seen.append((ready.folder / 'cloud.json').read_text())  # command lines
    assert not any('ecret' in text for text in seen)
  finally:
    ready('stop')


def test_variables_are_for_one_run(ready: Cloud) -> None:
  (ready.homes[0] / 'rlcw.env').write_text('export TOLD=stale\n')
  ready('run', '--', '--config=configs/grpo.py')
  try:
    _wait_for(lambda: all('training' in log for log in _logs(ready)))
    told = (ready.homes[0] / 'share' / 'runs' / 'environment').read_text()
    assert told.split('\0')[0] == 'unset'
    # refused, as a job runs; the file does not stay
    ready('run', '--env=TOLD=1', '--', '--config=configs/grpo.py')
    assert not any((home / 'rlcw.env').exists() for home in ready.homes)
  finally:
    ready('stop')


def test_a_dry_run_shows_no_value(cloud: Cloud) -> None:
  calls = _dry(cloud, 'run', '--env=HF_TOKEN=hidden', '--', '--config=x')
  assert [call[:2] for call in calls] == [['tpu-vm', 'scp'], ['tpu-vm', 'ssh']]
  assert 'hidden' not in str(calls)


def test_run_needs_setup(cloud: Cloud) -> None:
  cloud.set(request=['ACTIVE'], node=['READY'])
  done = cloud('run', '--', '--config=configs/grpo.py')
  assert done.returncode == 1
  assert done.stderr.count('is not set up: tpu_vm.sh setup') == 2


def test_a_worker_that_rebooted_needs_setup(ready: Cloud) -> None:
  (ready.homes[0] / 'mounted').unlink()
  done = ready('run', '--', '--config=configs/grpo.py', '--worker=none')
  try:
    assert done.returncode == 1
    assert done.stderr.count('is not set up') == 1
  finally:
    ready('stop')


def test_status_of_no_slice(cloud: Cloud) -> None:
  assert cloud('status').stdout == 'rlcw: absent\n'
  assert cloud.calls() == [LOOK]


def test_the_guide_uses_commands_that_exist() -> None:
  text = (ROOT / 'docs' / 'tpu.md').read_text()
  used = set(re.findall(r'tpu_vm\.sh (\w+)', text))
  assert used == set(COMMANDS)
