"""README and docs: length, links, anchors, commands and paths."""

import ast
import pathlib
import re
import shlex
from collections.abc import Iterator

import pytest

from rlcw import main
from rlcw.rewards.rules import wording_en
from rlcw.rewards.rules.registry import VERIFIERS
from rlcw.runtime import command as command_lib
from rlcw.runtime import configs
from rlcw.runtime.settings import leaves

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / 'README.md'
PAGES = sorted((ROOT / 'docs').glob('*.md'))
TEXTS = [README, *PAGES]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
SCRIPTS = sorted((ROOT / 'scripts').glob('*.sh'))

FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)
LINK = re.compile(r'!?\[[^\]]*\]\(([^)\s]+)\)')
URL = re.compile(r'https?://[^\s)]+')
FOLDERS = 'rlcw|scripts|configs|docs|tests'
PATH = re.compile(rf'(?<![\w./-])(?:\./)?((?:{FOLDERS})/[\w./-]*)')
COMMAND = re.compile(r'\s*(?:rlcw|\./scripts/|stage|\w+=\(|--config)')
PLACEHOLDERS = {'NAME', 'KEY', 'VARIANT'}


# --- Reading ----------------------------------------------------------------


def blocks(text: str, language: str) -> list[str]:
  """The fenced blocks of a language ('' for none)."""
  return [code for name, code in FENCE.findall(text) if name == language]


def anchors(text: str) -> set[str]:
  """The anchors of a page's headings, as GitHub makes them."""
  headings = re.findall(r'^#+ (.*)$', FENCE.sub('', text), re.M)
  words = [re.sub(r'[^\w\s-]', '', heading.lower()) for heading in headings]
  return {word.strip().replace(' ', '-') for word in words}


def broken_links(text: str, folder: pathlib.Path) -> list[str]:
  """Relative links and images of a page whose file or anchor is missing."""
  prose = re.sub(r'`[^`\n]*`', '', FENCE.sub('', text))
  broken = []
  for target in LINK.findall(prose):
    if URL.match(target):
      continue
    path, _, anchor = target.partition('#')
    file = folder / path if path else None
    if file is not None and not file.exists():
      broken.append(target)
    elif anchor:
      page = file.read_text('utf-8') if file else text
      if anchor not in anchors(page):
        broken.append(target)
  return broken


def missing_paths(text: str) -> list[str]:
  """Paths of this repository that a text names and that do not exist."""
  names = {name.rstrip('.') for name in PATH.findall(URL.sub('', text))}
  return sorted(
    name
    for name in names
    if not PLACEHOLDERS & {*re.findall(r'\w+', name)}
    and not (ROOT / name).exists()
  )


def commands(text: str, config: str = '') -> Iterator[list[str]]:
  """The arguments of each `rlcw` command in a shell text.

  Args:
    text: shell lines; a backslash joins a line with the next one.
    config: the config of lines that only override settings.
  """
  for line in re.sub(r'\\\n\s*', ' ', text).splitlines():
    if '--config' not in line or not COMMAND.match(line):
      continue
    line = re.sub(r'^\s*\w+=\((.*)\)\s*$', r'\1', line)
    first, *rest = shlex.split(line, comments=True)
    given = [w for w in (first, *rest) if w.startswith('--config')]
    named = config
    if first == 'rlcw':
      given = rest
    elif first == './scripts/length_bias.sh':
      named = 'configs/reward_model.py'
    elif first == 'stage':
      named = f'configs/{rest[1]}.py'
    if named and not any(word.startswith('--config=') for word in given):
      given = [f'--config={named}', *given]
    # what a script passes on is not known here
    yield [word for word in given if word != '$@']


def parse(arguments: list[str]) -> None:
  """Parses a command line as `rlcw` does, without running it.

  Raises:
    Exception: the file, variant, task, setting or flag does not exist, or a
      value has the wrong type.
  """
  folder = f'--config={ROOT}/configs/'
  words = [
    word.replace('--config=configs/', folder).replace(':VARIANT', '')
    for word in arguments
  ]
  tasks = {name: main.source(name) for name in main.TASKS}
  command_lib.read(['rlcw', '--workdir=x', *words], tasks)


def settings(config: pathlib.Path) -> set[str]:
  """The dotted keys of a config and of its nodes."""
  tree = configs.load(str(config)).to_dict()

  def walk(node: dict, prefix: str) -> Iterator[str]:
    for key, value in node.items():
      yield prefix + key
      if isinstance(value, dict):
        yield from walk(value, f'{prefix}{key}.')

  return set(walk(tree, ''))


def _written() -> Iterator[tuple[str, list[str]]]:
  """Every command of README, docs, config docstrings and scripts."""
  for page in TEXTS:
    for block in blocks(page.read_text('utf-8'), 'sh'):
      for command in commands(block):
        yield page.name, command
  for file in CONFIGS:
    tree = ast.parse(file.read_text('utf-8'))
    functions = [n for n in tree.body if isinstance(n, ast.FunctionDef)]
    for node in (tree, *functions):
      text = ast.get_docstring(node) or ''
      for command in commands(text, f'configs/{file.name}'):
        yield file.name, command
  for file in SCRIPTS:
    for command in commands(file.read_text('utf-8')):
      named = [w for w in command if w.startswith('--config=')]
      if named and '$' not in named[0]:
        # Values that the script fills in are of no type yet.
        filled = re.compile(r'--config\.[^=]*=.*\$')
        yield file.name, [w for w in command if not filled.match(w)]


WRITTEN = list(_written())


# --- Tests ------------------------------------------------------------------


def test_the_readme_has_at_most_200_lines() -> None:
  assert len(README.read_text('utf-8').splitlines()) <= 200


def test_the_readme_links_every_page() -> None:
  targets = LINK.findall(README.read_text('utf-8'))
  assert {f'docs/{page.name}' for page in PAGES} <= {*targets}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_a_page_begins_with_a_command_and_is_short(page: pathlib.Path) -> None:
  text = page.read_text('utf-8')
  assert re.match(r'# [^\n]+\n\n```sh\n\S', text)
  assert len(text.splitlines()) <= 140


@pytest.mark.parametrize('page', TEXTS, ids=lambda page: page.name)
def test_links_and_anchors_resolve(page: pathlib.Path) -> None:
  assert broken_links(page.read_text('utf-8'), page.parent) == []


@pytest.mark.parametrize(
  'page',
  [*TEXTS, *CONFIGS, *sorted((ROOT / 'scripts').rglob('*.[ps][yh]'))],
  ids=lambda page: page.name,
)
def test_paths_exist(page: pathlib.Path) -> None:
  assert missing_paths(page.read_text('utf-8')) == []


def test_the_files_of_the_readme_s_diagrams_exist() -> None:
  drawn = '\n'.join(blocks(README.read_text('utf-8'), ''))
  named = {*re.findall(r'[\w/]+(?:\.py|/)(?=[\s,]|$)', drawn)}
  assert len(named) >= 15
  missing = {
    name
    for name in named
    if not (ROOT / name).exists() and not (ROOT / 'rlcw' / name).exists()
  }
  assert missing == set()


def test_the_task_tables_are_complete() -> None:
  for page in (README, ROOT / 'docs' / 'tasks.md'):
    rows = re.findall(r'^\| (\[?`.*?) \|', page.read_text('utf-8'), re.M)
    named = {*re.findall(r'`(\w+)`', ' '.join(rows))}
    assert {*main.TASKS} <= named, page.name


@pytest.mark.parametrize(
  'command',
  [command for _, command in WRITTEN],
  ids=[f'{source}-{n}' for n, (source, _) in enumerate(WRITTEN)],
)
def test_a_command_parses(command: list[str]) -> None:
  parse(command)


def test_a_command_with_a_server_names_its_model() -> None:
  found = 0
  for source, command in WRITTEN:
    for agent in re.findall(r'--config\.(\S+)\.url=', ' '.join(command)):
      named = f'--config.{agent}.model='
      assert any(word.startswith(named) for word in command), source
      found += 1
  assert found >= 8


def test_commands_are_found_everywhere() -> None:
  sources = {source for source, _ in WRITTEN}
  assert {'README.md', 'tpu.md', 'grpo.py', 'feedback.sh'} <= sources
  assert len(WRITTEN) > 60


def test_settings_named_in_passing_exist() -> None:
  known = set().union(*map(settings, CONFIGS)) | PLACEHOLDERS
  for page in [*TEXTS, *SCRIPTS]:
    named = re.findall(r'--config\.(\w[\w.]*\w)', page.read_text('utf-8'))
    assert {*named} <= known, page.name


def test_the_table_of_recipes_is_that_of_the_code() -> None:
  """All settings of each recipe, with their values, and no others."""
  from configs import grpo

  page = (ROOT / 'docs' / 'recipes.md').read_text('utf-8')
  rows = re.findall(r'^\| `(\w+)` \| \[([\d.]+)\].*?\| (.*?) \|', page, re.M)
  recipes = {recipe.__name__: recipe for recipe in grpo.RECIPES}
  assert [name for name, _, _ in rows] == [*recipes]
  for name, paper, cell in rows:
    written = dict(re.findall(r'`([\w.]+)=([\w.]+)`', cell))
    made = dict(leaves(recipes[name]()))
    assert written == {key: str(value) for key, value in made.items()}, name
    assert f'arXiv {paper}' in (recipes[name].__doc__ or '')
    config = dict(leaves(grpo.get_config(name)))
    assert {key: config[key] for key in made} == made


def test_the_table_of_rules_is_that_of_the_code() -> None:
  page = (ROOT / 'docs' / 'rules.md').read_text('utf-8')
  for name, rule in VERIFIERS.items():
    words = wording_en.WORDINGS[name][0].replace('{s}', 's')
    arguments = ' '.join(
      f'`{each}`' if required else f'[`{each}`]'
      for each, required in rule.parameters.items()
    )
    ours = 'yes' if rule.benchmark else ''
    assert f'| `{name}` | `{words}` | {arguments} | {ours} |\n' in page
  assert page.count('\n| `') == len(VERIFIERS)


@pytest.mark.parametrize('name', ['faq', 'metrics', 'python'])
def test_names_in_a_reference_occur_in_the_code(name: str) -> None:
  files = [
    p for top in ('rlcw', 'configs') for p in ROOT.glob(f'{top}/**/*.py')
  ]
  source = {
    word for f in files for word in re.findall(r'\w+', f.read_text('utf-8'))
  }
  page = FENCE.sub('', (ROOT / 'docs' / f'{name}.md').read_text('utf-8'))
  # settings with or without a value, metrics, fields; `judge_…` has a prefix
  named = re.findall(r'`([a-z]\w*(?:\.\w+)*)(?:=[^`]*)?`', page)
  last = {
    each.removeprefix('judge_').rpartition('.')[2]
    for each in named
    if '_' in each or '.' in each
  } - {'json', 'jsonl', 'png'}
  assert len(last) > 5
  assert last <= source


# --- The checks themselves --------------------------------------------------


@pytest.mark.parametrize(
  'text',
  [
    '[page](docs/none.md)',
    '![picture](docs/none.png)',
    '[anchor](docs/data.md#none)',
    '[anchor](#none)',
    '# A `title`\n[anchor](#a-titel)',
  ],
)
def test_a_broken_link_is_found(text: str) -> None:
  assert len(broken_links(text, ROOT)) == 1
  whole = '# A `title`: one?\n[a](#a-title-one) [b](docs/data.md#formats)'
  assert broken_links(whole, ROOT) == []


def test_a_missing_path_is_found() -> None:
  text = 'in `rlcw/main.py`, ./scripts/test.sh, `configs/NAME.py`, configs/*.py'
  assert missing_paths(text) == []
  assert missing_paths(f'{text} and rlcw/nowhere.py.') == ['rlcw/nowhere.py']
  assert missing_paths('run ./scripts/tset.sh') == ['scripts/tset.sh']


@pytest.mark.parametrize(
  'line',
  [
    'rlcw --config=configs/gpro.py --workdir=runs/x',
    'rlcw --config=configs/grpo.py:huge --workdir=runs/x',
    'rlcw --config=configs/grpo.py --workdir=runs/x --config.step=3',
    'rlcw --config=configs/grpo.py --workdir=runs/x --config.steps=three',
    'rlcw --config=configs/grpo.py --workdir=runs/x --config.mixing.wieght=1.0',
    'rlcw --config=configs/grpo.py --workdir=runs/x --config.task=gpro',
    'rlcw --config=configs/grpo.py --wordkir=runs/x',
    'rlcw --config=configs/grpo.py \\\n --workdir=runs/x \\\n --config.step=3',
    './scripts/length_bias.sh runs/x y.jsonl --config.debais=none',
    'stage x sft --config.stesp=1',
    'job=(--config=configs/grpo.py \\\n  --config.step=3)',
    '--config.step=3',
  ],
)
def test_a_wrong_command_is_found(line: str) -> None:
  (command,) = commands(line)
  with pytest.raises(Exception):  # noqa: B017 - of several packages
    parse(command)


def test_scripts_name_the_extras_they_install() -> None:
  """A sourced file without arguments would read those of the script.

  `paths.sh` reads none.
  """
  for file in SCRIPTS:
    for line in file.read_text('utf-8').splitlines():
      if line.startswith('source ') and not line.endswith('paths.sh"'):
        assert re.search(r'environment\.sh"? "(\[[\w,]+\])?"$', line), file.name
