"""The command line: help, and one line for every mistake, before any work."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pipeline
import pytest

from rlcw import main
from rlcw.runtime import command, configs, console, settings

ROOT = pathlib.Path(__file__).resolve().parents[2]
BROKEN = {
  'syntax.py': 'def get_config(:\n',
  'nothing.py': 'x = 1\n',
  'fails.py': 'def get_config():\n  return {}["x"]\n',
  'raises.py': 'import nowhere_at_all\n',
  'exits.py': 'raise SystemExit(0)\n',
  'plain.py': 'def get_config():\n  return {"task": "sft"}\n',
  'taskless.py': (
    'from ml_collections import ConfigDict\n'
    'def get_config():\n  return ConfigDict({"steps": 3})\n'
  ),
  'typo.py': (
    'from rlcw.runtime import configs\n'
    'def get_config():\n'
    '  config = configs.load("grpo")\n'
    '  config.stepz = 3\n'
    '  return config\n'
  ),
  'range.py': (
    'from rlcw.runtime import configs\n'
    'def get_config(variant):\n'
    '  config = configs.load("sft")\n'
    '  config.learning_rate = float(variant)\n'
    '  return config\n'
  ),
}
# The command's arguments (without a workdir if there are two dots), and what
# its one line says.
MISTAKES = [
  ('..', 'rlcw: --config is missing; expected rlcw --config=NAME'),
  ('.. --config=grpo', '--workdir is missing; expected a folder'),
  ('.. --config=grpo --workdir=a.txt', '--workdir=a.txt: .*a.txt is not a fol'),
  ('.. --config=grpo --workdir=a.txt/b', 'a.txt is not a folder'),
  ('.. --config', 'Missing value for flag --config'),
  # files, variants, recipes
  ('--config=grop', "--config=grop: no such file.*did you mean 'grpo'"),
  ('--config=configs/sftt.py', "no such file.*did you mean 'sft'"),
  ('--config=tpyo.py', "no such file.*did you mean 'typo.py'"),
  ('--config=zzzz', 'expected a path, or one of .*grpo'),
  ('--config=grpo:tinny', "variant='tinny'; expected .*did you mean 'tiny'"),
  ('--config=grpo:tiny+dapper', "'dapper'; expected one of .*mean 'dapo'"),
  ('--config=experiment:rmlr', "arm='rmlr'; expected .*did you mean 'rlmr'"),
  ('--config=sft:qwen2_5_8b', "mean 'qwen2_5_7b'"),
  ('--config=judge:tiny', '--config=judge:tiny: expected no :variant'),
  ('--config=range.py', '--config=range.py: expected a :variant'),
  ('--config=syntax.py', 'syntax.py:1: SyntaxError: invalid syntax'),
  ('--config=nothing.py', r'nothing.py: expected a function get_config\(\)'),
  ('--config=fails.py', "fails.py:2: KeyError: 'x'"),
  (
    '--config=raises.py',
    "raises.py:1: ModuleNotFoundError: .*'nowhere_at_all'",
  ),
  ('--config=exits.py', 'exits.py:1: SystemExit: 0'),
  ('--config=plain.py', 'returned a value of type dict; expected a ConfigDict'),
  ('--config=taskless.py', 'names no task; expected .*grpo'),
  ('--config=typo.py', "stepz=3: task 'grpo' has no such .* mean 'steps'"),
  ('--config=range.py:-1', 'learning_rate=-1.0; expected a number above 0'),
  ('--config=range.py:nan', 'learning_rate=nan; expected a number above 0'),
  # tasks, settings, flags
  ('--config=sft --config.task=stf', "task='stf' .*did you mean 'sft'"),
  ('--config=sft --config.stpes=3', "--config.stpes: no such .*mean 'steps'"),
  ('--config=sft --config.stpes 3', "--config.stpes: no such .*mean 'steps'"),
  ('--config=grpo --config.window=3', "did you mean 'monitors.window'"),
  ('--config=sft --config.zzzz=3', 'no such setting; see --help'),
  ('--config=sft --steps=3', "--steps: no such flag; .*'config.steps'"),
  ('--config=sft --wrokdir=x', "--wrokdir: no such flag; .*mean 'workdir'"),
  ('--config=sft steps=3', "unexpected argument 'steps=3'; expected --config."),
  ('--config=sft --heartbeat=soon', 'flag --heartbeat=soon: '),
  # types, ranges, names
  (
    '--config=sft --config.steps=many',
    r'--config\.steps=many; expected an int',
  ),
  ('--config=sft --config.steps=1.5', r'steps=1\.5; expected an integer of at'),
  ('--config=sft --config.remat=maybe', 'remat=maybe; expected True or False'),
  ('--config=sft --config.mesh=8', 'mesh=8; expected a dict of settings'),
  ('--config=sft --config.mesh={"data":1}', "mesh: lacks 'mesh.fsdp'"),
  ('--config=sft --config.steps=-1', 'steps=-1; expected an integer of at lea'),
  ('--config=sft --config.steps -1', 'steps=-1; expected an integer of at lea'),
  ('--config=sft --config.heldout=2', 'heldout=2.0; expected .* at most 1'),
  ('--config=sft --config.learning_rate=inf', 'learning_rate=inf; expected a'),
  ('--config=sft --config.max_grad_norm=0', 'max_grad_norm=0.0; expected a nu'),
  ('--config=grpo --config.mixing.margin=1e-7', 'margin=1e-07; expected a num'),
  ('--config=grpo --config.mixing.name=rmlr', "did you mean 'rlmr'"),
  ('--config=judge --config.judge.temperature=hot', "'hot'; expected a number"),
  ('--config=judge --config.judge.language=fr', "'fr'; expected one of .*'zh'"),
  ('--config=grpo --config.judge.endpoint.url=http://u:p@h/v1', 'without user'),
  # settings that do not fit each other, or the eight devices
  ('--config=grpo --config.microbatch_groups=3', r'expected one of \[8\]'),
  (
    '--config=reward_model --config.train=lora '
    '--config.decoder.microbatch_groups=3',
    r'decoder.microbatch_groups=3 must divide .* one of \[8\]',
  ),
  (
    '--config=grpo:tiny --config.lora.rank=8',
    r'--config\.lora\.rank has no effect with train=all; .*train=lora$',
  ),
  (
    '--config=reward_model --config.decoder.steps 9',
    'decoder.steps has no effect with train=head; .*train=lora or all',
  ),
  ('--config=sft --config.mesh.tensor=3', 'expected the 8 devices available'),
  ('--config=curate --config.examples=30', 'expected at most neighbours=20'),
  ('--config=briefs --config.least_rules=9', 'expected at most most_rules=3'),
  ('--config=judge', 'no judge is configured: expected --config.judge.model'),
  (
    '--config=generate --config.top_k=3 --config.top_p=0.5',
    'expected only one of them',
  ),
  ('--config=grpo --config.task=plan --config.plan.topology=v5e', "'v5e:2x2'"),
  ('--config=sft --config.task=plan --config.plan.topology=v5e', "'v5e:2x2'"),
  (
    '--config=reward_model --config.task=plan --config.train=none',
    "expected one of .*'head'",
  ),
]


@pytest.fixture
def folder(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
  """The working directory: not the checkout, and with broken configs."""
  for name, text in BROKEN.items():
    (tmp_path / name).write_text(text)
  (tmp_path / 'a.txt').write_text('')
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize(('line', 'words'), MISTAKES)
def test_a_mistake_is_one_line(
  line: str,
  words: str,
  folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  first, *arguments = [*line.split(), ''][:-1] or ['']
  arguments = arguments if first == '..' else [first, *arguments, '--workdir=w']
  before = sorted(folder.iterdir())
  assert pipeline.command(monkeypatch, *arguments) == command.MISTAKE == 2
  shown = capsys.readouterr()
  [error] = shown.err.splitlines()
  assert error.startswith('rlcw: ') and not shown.out
  assert re.search(words, error), error
  assert sorted(folder.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_a_mistake(
  folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.setattr(os, 'access', lambda *_: False)
  assert pipeline.command(monkeypatch, '--config=briefs', '--workdir=w/x') == 2
  error = capsys.readouterr().err
  assert error == f'rlcw: --workdir=w/x: {folder} cannot be written\n'


def test_a_finished_run_may_be_read_only(
  folder: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  line = '--config=briefs', '--workdir=w', '--config.count=1'
  assert pipeline.command(monkeypatch, *line) == 0
  before = sorted((folder / 'w').iterdir())
  monkeypatch.setattr(os, 'access', lambda *_: False)
  assert pipeline.command(monkeypatch, *line) == 0
  assert capsys.readouterr().out.endswith('briefs: already done in w\n')
  assert sorted((folder / 'w').iterdir()) == before


def test_what_a_terminal_would_obey_is_escaped_and_no_more() -> None:
  text = 'a\u3000b\xa0c 👨\u200d👩\n'
  assert console.printable(text) == text
  assert console.printable('a\x1b[1m\u2028\u202e') == (
    'a\\x1b[1m\\u2028\\u202e'
  )


def test_control_characters_are_escaped() -> None:
  assert command.one_line('a\n b\x1b[1mc é') == 'a b\\x1b[1mc é'


def test_help_lists_tasks_and_flags(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  assert pipeline.command(monkeypatch, '--help') == 0
  shown = capsys.readouterr()
  for name in [*main.TASKS, '--config', '--workdir', '--distributed']:
    assert re.search(f'^  {name}  +[A-Za-z]', shown.out, re.MULTILINE), name
  assert 'sft           supervised fine-tuning on examples of' in shown.out
  lines = shown.out.splitlines()
  assert len(lines) < 40 and max(map(len, lines)) <= 80 and not shown.err


@pytest.mark.parametrize('name', configs.names())
def test_help_on_a_config_has_a_comment_on_every_setting(name: str) -> None:
  config = configs.load(name)
  lines = command.describe_settings(name, config).splitlines()
  # Commands of several lines stay so.
  above = lines[: lines.index('Settings, with their values here:')]
  assert max(map(len, above)) <= 80
  for setting, value in settings.leaves(config):
    # the last one: the docstring above has examples
    at = max(
      number
      for number, line in enumerate(lines)
      if re.match(rf'--config\.{re.escape(setting)}=', line)
    )
    assert str(value) in lines[at]
    assert re.match('    [^ ]', lines[at + 1]), setting


def test_help_on_a_variant_has_its_values(
  monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
  arguments = '--config=grpo:tiny', '--help', '--config.seed=7'
  assert pipeline.command(monkeypatch, *arguments) == 0
  shown = capsys.readouterr().out
  assert (
    '--config.steps=2  (an integer of at least 1)\n'
    '    rollouts; may grow when a finished run is continued\n'
  ) in shown
  assert '--config.seed=7' in shown
  assert '  gdpo         ' in shown and 'rlcw --config=' in shown


def test_a_name_and_a_path_are_the_same_config(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  configs_folder = configs.folder()
  assert configs_folder == ROOT / 'configs'
  for spec in ('grpo', 'grpo:tiny+dapo', 'experiment:gate', 'report'):
    name, colon, variant = spec.partition(':')
    path = f'{configs_folder / name}.py{colon}{variant}'
    assert configs.load(spec) == configs.load(path)
  monkeypatch.chdir(ROOT)
  assert configs.load('configs/sft.py') == configs.load('sft')


def test_settings_are_read_in_every_form(folder: pathlib.Path) -> None:
  tasks = {name: main.source(name) for name in main.TASKS}
  line = (
    'rlcw --config.steps 7 --config grpo:tiny -config.seed=3 --workdir w '
    '--noconfig.remat --config.offload --config.kl_weight 0 --distributed '
    '--config.lora.targets=up --config.lora.targets=down --heartbeat=9 '
    '--config.train=lora --config.judge.temperature=None --config.system='
  )
  given = command.read(line.split(), tasks)
  config = given.config
  assert (config.steps, config.seed, config.kl_weight) == (7, 3, 0.0)
  assert (config.remat, config.offload, config.system) == (False, True, '')
  assert config.lora.targets == ('up', 'down')
  assert config.judge.temperature is None and config.max_new_tokens == 16
  assert given[1:] == (pathlib.Path('w'), True, 9)
  assert config.is_locked


PLUGINS = 'jax_cuda12_plugin', 'jax_cuda13_plugin'


@pytest.mark.skipif(
  any(map(importlib.util.find_spec, PLUGINS)),
  reason='this machine may have a GPU',
)
def test_a_device_that_is_not_there_is_one_line(tmp_path: pathlib.Path) -> None:
  done = subprocess.run(
    [sys.executable, '-m', 'rlcw.main', '--config=generate', '--workdir=w'],
    cwd=tmp_path,
    env=os.environ | {'JAX_PLATFORMS': 'cuda', 'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
  )
  [error] = done.stderr.splitlines()
  assert (done.returncode, done.stdout) == (command.MISTAKE, '')
  assert "JAX_PLATFORMS='cuda'" in error and 'of its plugins, found' in error
  assert 'pip install -e ".[cuda]"' in error
  assert not (tmp_path / 'w').exists()


def test_a_config_file_of_an_earlier_version_gets_new_settings(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'mine.py'
  file.write_text(
    'from ml_collections import ConfigDict\n'
    'def get_config():\n'
    "  return ConfigDict({'task': 'grpo', 'steps': 3, 'mesh': {'data': 1}})\n"
  )
  argv = ['rlcw', f'--config={file}', f'--workdir={tmp_path / "run"}']
  tasks = {name: main.source(name) for name in main.TASKS}
  config = command.read([*argv, '--config.kl=k2'], tasks).config
  assert (config.steps, config.kl, config.show_every) == (3, 'k2', 10)
  assert config.mesh.to_dict() == {'data': 1, 'fsdp': -1, 'tensor': 1}


@pytest.mark.parametrize(
  ('setting', 'message'),
  [
    ("extract_rules='False'", "extract_rules='False'; expected True or False"),
    ("offload='no'", "offload='no'; expected True or False"),
    ('model=5', 'model=5; expected a text'),
    ('system=None', 'system=None; expected a text'),
    ("verifiers='rules'", "verifiers='rules'; expected several values"),
    ("monitors={'stop': 1}", 'monitors.stop=1; expected True or False'),
  ],
)
def test_a_config_file_s_value_of_another_kind_is_a_mistake(
  setting: str, message: str, tmp_path: pathlib.Path
) -> None:
  """A text is true, whatever it says."""
  file = tmp_path / 'mine.py'
  file.write_text(
    'from ml_collections import ConfigDict\n'
    f"def get_config():\n  return ConfigDict(dict(task='grpo', {setting}))\n"
  )
  argv = ['rlcw', f'--config={file}', f'--workdir={tmp_path / "run"}']
  tasks = {name: main.source(name) for name in main.TASKS}
  with pytest.raises(Exception, match=re.escape(message)):
    command.read(argv, tasks)


@pytest.mark.parametrize(
  ('given', 'expected'),
  [
    ('length:words', ('length:words',)),
    ('length:words,style:no_cliche', ('length:words', 'style:no_cliche')),
    ("('length:words', 'length:lines')", ('length:words', 'length:lines')),
    ('()', ()),
  ],
)
def test_names_have_commas(given: str, expected: tuple[str, ...]) -> None:
  config = configs.load('briefs')
  command.override(config, [f'--config.rules={given}'])
  assert tuple(config.rules) == expected


def test_loggers_have_commas() -> None:
  config = configs.load('grpo')
  command.override(config, ['--config.loggers=tensorboard,wandb'])
  assert tuple(config.loggers) == ('tensorboard', 'wandb')
