"""The command line: errors name what is wrong, a second run does nothing."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def rlcw(*arguments: str) -> subprocess.CompletedProcess:
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  return subprocess.run(
    [sys.executable, '-m', 'rlcw.main', *arguments],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
  )


def test_a_misspelt_setting_is_an_error(tmp_path: pathlib.Path) -> None:
  done = rlcw(
    '--config=configs/grpo.py', f'--workdir={tmp_path}', '--config.step=3'
  )
  assert done.returncode != 0
  assert 'step' in done.stderr and 'steps' in done.stderr


def test_an_error_of_the_user_ends_without_a_trace(
  tmp_path: pathlib.Path,
) -> None:
  done = rlcw(
    '--config=configs/reward_model.py',
    f'--workdir={tmp_path}',
    '--config.model=nowhere.gguf',
  )
  assert done.returncode == 1
  assert 'no model at nowhere.gguf' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.slow
def test_old_names_and_unset_settings_are_in_the_config_of_a_run(
  tmp_path: pathlib.Path,
) -> None:
  replies = tmp_path / 'replies.jsonl'
  replies.write_text('{"prompt": "a", "response": "b"}\n')
  done = rlcw(
    '--config=configs/judge.py',
    f'--workdir={tmp_path / "run"}',
    f'--config.input={replies}',
    '--config.replies_per_pass=7',
    '--config.judge.endpoint.max_tokens=9',
    '--config.judge.temperature=None',
    '--config.judge.endpoint.retries=0',
    '--config.judge.endpoint.url=http://127.0.0.1:9/v1',
    '--config.judge.endpoint.model=m',
  )
  assert 'config.replies_per_pass is now config.batch_size' in done.stderr
  assert 'is now config.judge.max_new_tokens' in done.stderr
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  written = json.loads((tmp_path / 'run' / 'config.json').read_text())
  judge = written['judge']
  assert (written['batch_size'], judge['max_new_tokens']) == (7, 9)
  assert judge['temperature'] is None
  inputs = json.loads((tmp_path / 'run' / 'inputs.json').read_text())
  assert '--config.judge.endpoint.model=m' in inputs['command']


def test_a_wait_for_a_server_ends_on_request_and_resumes(
  tmp_path: pathlib.Path,
) -> None:
  replies = tmp_path / 'replies.jsonl'
  replies.write_text('{"prompt": "a", "response": "b"}\n')
  with socket.create_server(('127.0.0.1', 0)) as silent:
    port = silent.getsockname()[1]
    process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'rlcw.main', '--config=configs/judge.py'),
        f'--workdir={tmp_path / "run"}',
        f'--config.input={replies}',
        f'--config.judge.endpoint.url=http://127.0.0.1:{port}/v1',
        '--config.judge.endpoint.model=m',
      ],
      cwd=ROOT,
      stderr=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    connection, _ = silent.accept()  # the question, which is not answered
    with connection:
      process.send_signal(signal.SIGINT)
      out, error = process.communicate(timeout=60)
  assert process.returncode == 75
  assert 'Traceback' not in error
  assert 'stopped by SIGINT; the same command resumes' in out
  assert not (tmp_path / 'run' / 'summary.json').exists()


def test_a_key_in_the_settings_is_refused_and_written_nowhere(
  tmp_path: pathlib.Path,
) -> None:
  done = rlcw(
    '--config=configs/judge.py',
    f'--workdir={tmp_path / "run"}',
    '--config.judge.endpoint.key_variable=sk-secret',
  )
  assert done.returncode == 1
  assert 'judge.endpoint.key_variable: expected the name of an' in done.stderr
  assert 'sk-secret' not in done.stdout + done.stderr
  assert not (tmp_path / 'run').exists()


def test_an_error_of_the_disk_ends_without_a_trace(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  from rlcw import main

  def full(_: object) -> None:
    raise OSError(28, 'No space left on device', 'metrics.jsonl')

  monkeypatch.setattr(main.app, 'run', full)
  with pytest.raises(SystemExit, match="rlcw: .*No space.*'metrics.jsonl'"):
    main.console()


def test_a_finished_run_is_not_run_again(tmp_path: pathlib.Path) -> None:
  from pipeline import shipped

  config = shipped('evaluate')
  (tmp_path / 'config.json').write_text(config.to_json())
  (tmp_path / 'summary.json').write_text('{}')
  arguments = ('--config=configs/evaluate.py', f'--workdir={tmp_path}')
  done = rlcw(*arguments)
  assert done.returncode == 0
  assert 'already done' in done.stdout + done.stderr
  changed = rlcw(*arguments, '--config.seed=7')
  assert changed.returncode != 0
  assert 'seed' in changed.stderr
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 1


@pytest.mark.parametrize(
  'name', ['reward_model', 'grpo', 'evaluate', 'verify', 'briefs', 'report']
)
def test_every_config_names_a_task_and_its_command(name: str) -> None:
  from pipeline import shipped

  from rlcw import main

  assert shipped(name).task in main.TASKS
  text = (ROOT / 'configs' / f'{name}.py').read_text()
  assert f'rlcw --config=configs/{name}.py' in text


def test_a_variant_is_a_whole_config_and_an_unknown_one_is_refused() -> None:
  from configs import grpo

  for variant, settings in grpo.VARIANTS.items():
    config = grpo.get_config(variant)
    assert config.group_size >= 2 and config.steps
    command = f'rlcw --config=configs/grpo.py:{variant} --workdir=runs/'
    assert command in str(settings.__doc__)
  assert grpo.get_config('qwen2_5_7b').mesh.tensor == 4
  assert grpo.get_config().mesh.tensor == 1
  with pytest.raises(ValueError, match="'qwen2_5_72b'"):
    grpo.get_config('qwen')


def test_recipes_join_models_and_make_sense() -> None:
  import jax

  from configs import grpo
  from rlcw.rewards import mixing
  from rlcw.runtime.mesh import make_mesh
  from rlcw.tasks.grpo import objective

  mesh = make_mesh(devices=jax.devices()[:1])
  for recipe in grpo.RECIPES:
    config = grpo.get_config(f'tiny+{recipe.__name__}')
    assert config.steps == grpo.get_config('tiny').steps
    objective.check(config, mesh)
    mixing.check(config.mixing, config.advantage_scale)
  config = grpo.get_config('qwen2_5_7b+gspo')
  assert (config.mesh.tensor, config.ratio) == (4, 'sequence')
  assert grpo.get_config('gspo+rlmr').mixing.name == 'rlmr'
  with pytest.raises(ValueError, match="'dapper'"):
    grpo.get_config('tiny+dapper')
