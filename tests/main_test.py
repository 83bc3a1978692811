"""The command: it runs a task once, and names what is wrong with a run."""

import json
import pathlib
import signal
import socket
import subprocess
import sys

import pipeline
import pytest
from ml_collections import ConfigDict

from rlcw import main

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_an_error_of_the_user_ends_without_a_trace(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  status = pipeline.command(
    monkeypatch,
    '--config=reward_model',
    f'--workdir={tmp_path}',
    '--config.model=nowhere.gguf',
  )
  assert status == 1
  [error] = capsys.readouterr().err.splitlines()
  assert error.startswith('rlcw: no model at nowhere.gguf')


def test_an_old_name_of_a_setting_is_accepted_with_a_warning(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  replies = tmp_path / 'replies.jsonl'
  replies.write_text('{"prompt": "a", "response": "b"}\n')
  status = pipeline.command(
    monkeypatch,
    '--config=judge',
    f'--workdir={tmp_path / "run"}',
    f'--config.input={replies}',
    '--config.judge.endpoint.retries=0',
    '--config.replies_per_pass=8',
    '--config.judge.endpoint.max_tokens=9',
    '--config.judge.temperature=None',
    '--config.judge.endpoint.url=http://127.0.0.1:9/v1',
    '--config.judge.endpoint.model=m',
  )
  error = capsys.readouterr().err
  assert status == 1
  assert 'config.replies_per_pass is now config.batch_size' in error
  assert 'is now config.judge.max_new_tokens' in error
  written = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert (written['batch_size'], written['judge']['max_new_tokens']) == (8, 9)
  # A setting of an endpoint can be unset.
  assert written['judge']['temperature'] is None
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
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  status = pipeline.command(
    monkeypatch,
    '--config=judge',
    f'--workdir={tmp_path / "run"}',
    '--config.judge.endpoint.key_variable=sk-secret',
  )
  shown = capsys.readouterr()
  assert status == 2
  assert 'judge.endpoint.key_variable: expected the name of an' in shown.err
  assert 'sk-secret' not in shown.out + shown.err
  assert not (tmp_path / 'run').exists()


def test_an_error_of_the_disk_ends_without_a_trace(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  def full(_: object) -> None:
    raise OSError(28, 'No space left on device', 'metrics.jsonl')

  monkeypatch.setattr(main, 'main', full)
  with pytest.raises(SystemExit, match="rlcw: .*No space.*'metrics.jsonl'"):
    main.console()


def test_a_finished_run_is_not_run_again(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  config = pipeline.shipped('evaluate')
  (tmp_path / 'config.json').write_text(config.to_json())
  (tmp_path / 'summary.json').write_text('{}')
  arguments = ('--config=evaluate', f'--workdir={tmp_path}')
  assert pipeline.command(monkeypatch, *arguments) == 0
  shown = capsys.readouterr()
  assert 'already done' in shown.out + shown.err
  assert pipeline.command(monkeypatch, *arguments, '--config.seed=7') == 2
  [error] = capsys.readouterr().err.splitlines()
  assert 'other settings' in error and 'seed' in error
  # another task: not a list of all the settings that only one of them has
  arguments = ('--config=report', f'--workdir={tmp_path}')
  assert pipeline.command(monkeypatch, *arguments) == 2
  [error] = capsys.readouterr().err.splitlines()
  assert 'has a run of the task evaluate, not report; choose' in error
  assert len(error) < 300
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 1


def test_settings_from_python_are_checked(tmp_path: pathlib.Path) -> None:
  config = pipeline.shipped('sft')
  config.max_grad_norm = -1.0
  with pytest.raises(ValueError, match=r'max_grad_norm=-1\.0; expected'):
    main.run_task(config, tmp_path)
  config = pipeline.shipped('sft')
  config.step = 3
  with pytest.raises(ValueError, match="step=3: .* did you mean 'steps'"):
    main.run_task(config, tmp_path)
  with pytest.raises(ValueError, match='names no task; expected'):
    main.run_task(ConfigDict(), tmp_path)
  assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
  'name', ['reward_model', 'grpo', 'evaluate', 'verify', 'briefs', 'report']
)
def test_every_config_names_a_task_and_its_command(name: str) -> None:
  assert pipeline.shipped(name).task in main.TASKS
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
  with pytest.raises(ValueError, match="did you mean 'qwen2_5_7b'"):
    grpo.get_config('qwen2')


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


@pytest.mark.parametrize(
  ('task', 'dtype', 'remarked'),
  [
    ('grpo', 'bfloat16', True),
    ('sft', 'bfloat16', True),
    ('grpo', 'float32', False),
    ('plan', 'bfloat16', False),  # of a step on other devices
    ('report', None, False),
  ],
)
def test_bfloat16_on_a_cpu_is_remarked_on(
  task: str, dtype: str | None, remarked: bool
) -> None:
  settings = {'task': task} | ({'compute_dtype': dtype} if dtype else {})
  config = ConfigDict(settings | ({'mesh': {}} if dtype else {}))
  assert ('bfloat16 is slower' in main.dtype_remark(config)) == remarked


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (['--config=adversary'], "agents.model=''"),
    (['--config=curate'], "agent.model=''"),
    (['--config=briefs', '--config.rules=length:word'], "mean 'length:words'"),
  ],
)
def test_a_mistake_in_the_settings_alone_is_one_of_usage(
  arguments: list[str],
  message: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  workdir = tmp_path / 'run'
  status = pipeline.command(monkeypatch, *arguments, f'--workdir={workdir}')
  assert status == 2 and message in capsys.readouterr().err
  assert not (workdir / 'config.json').exists()


def test_a_run_of_another_task_is_not_evaluated(
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  run = tmp_path / 'checked'
  run.mkdir()
  for config, said in (
    ('{"task": "verify"}', 'is of verify; expected the workdir of a run of gr'),
    ('{"model_type": "llama"}', 'is of no task; expected the workdir of a run'),
  ):
    (run / 'config.json').write_text(config)
    status = pipeline.command(
      monkeypatch,
      '--config=evaluate',
      f'--config.run={run}',
      f'--workdir={tmp_path / "run"}',
    )
    assert status == 1 and said in capsys.readouterr().err
