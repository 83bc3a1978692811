"""The notebook: well-formed, and executed from top to bottom by nbclient."""

import ast
import copy
import json
import pathlib
import re
import shutil
from typing import Any

import nbclient
import nbformat
import pytest
from pipeline import ROOT, shipped

NOTEBOOK = ROOT / 'scripts' / 'colab.ipynb'


@pytest.fixture(scope='module')
def notebook() -> Any:
  return nbformat.read(NOTEBOOK, as_version=4)


def _code(notebook: Any) -> list[Any]:
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def _parameters(notebook: Any) -> dict[str, Any]:
  tree = ast.parse(_code(notebook)[0].source)
  return {
    node.targets[0].id: ast.literal_eval(node.value)  # pyright: ignore
    for node in tree.body
    if isinstance(node, ast.Assign)
  }


def test_notebook_is_valid_and_without_outputs(notebook: Any) -> None:
  nbformat.validate(notebook)
  for cell in _code(notebook):
    assert cell.outputs == []
    assert cell.execution_count is None
    ast.parse(cell.source)  # so nothing but Python: no magics, no shell


def test_parameters_are_the_quickstart_s(notebook: Any) -> None:
  parameters = _parameters(notebook)
  assert list(parameters) == ['REPOSITORY', 'STEPS', 'BRIEFS', 'RUNS']
  assert parameters['STEPS'] == shipped('grpo').steps
  assert parameters['BRIEFS'] == shipped('grpo').briefs


def test_notebook_runs_the_quickstart_s_tasks(notebook: Any) -> None:
  script = (ROOT / 'scripts' / 'quickstart.sh').read_text()
  (loop,) = re.findall(r'for task in (.*); do', script)
  whole = '\n'.join(cell.source for cell in _code(notebook))
  run = re.findall(r"^run_task\(\s*'(\w+)'", whole, re.M)
  assert run == [*loop.split(), 'report']
  assert 'source scripts/environment.sh' in whole
  model = pathlib.Path(shipped('grpo').model)
  assert model.parent.name == 'models'
  assert (
    f'fetch_model {model.name} '
    in (ROOT / 'scripts' / 'environment.sh').read_text()
  )
  assert f"'{model}'" in whole


def test_outside_a_checkout_the_address_is_asked_for(
  notebook: Any, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  parameters, finding = _code(notebook)[:2]
  with pytest.raises(ValueError, match='enter the address of the repository'):
    exec(f'{parameters.source}\n{finding.source}', {})


def _text(cell: Any) -> str:
  """All that a cell printed or showed, as text."""
  parts = [
    out.get('text', '')
    or out.get('data', {}).get('text/markdown', '')
    or out.get('data', {}).get('text/html', '')
    for out in cell.outputs
  ]
  return '\n'.join(parts)


@pytest.fixture
def checkout(tmp_path: pathlib.Path, smollm2_path: pathlib.Path) -> Any:
  """A copy of what the notebook needs, with few briefs."""
  folder = tmp_path / 'checkout'
  for name in ('rlcw', 'configs', 'scripts'):
    shutil.copytree(ROOT / name, folder / name)
  shutil.copy(ROOT / 'pyproject.toml', folder)
  (folder / 'models').mkdir()
  (folder / 'models' / smollm2_path.name).symlink_to(smollm2_path)
  lines = (ROOT / 'rlcw/data/assets/briefs.jsonl').read_text().splitlines()
  english = [x for x in map(json.loads, lines) if x['language'] == 'en']
  few = [x for x in english if x['split'] == 'train'][:8]
  few += [x for x in english if x['split'] == 'heldout'][:10]
  text = ''.join(json.dumps(x) + '\n' for x in few)
  (folder / 'few.jsonl').write_text(text)
  return folder


@pytest.mark.slow
def test_notebook_runs(
  notebook: Any, checkout: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.delenv('XLA_FLAGS', raising=False)  # one device, as in Colab
  notebook = copy.deepcopy(notebook)
  parameters = _parameters(notebook) | {'STEPS': 2, 'BRIEFS': 'few.jsonl'}
  cells = _code(notebook)
  cells[0].source = '\n'.join(f'{k} = {v!r}' for k, v in parameters.items())
  nbclient.NotebookClient(
    notebook,
    timeout=3600,
    resources={'metadata': {'path': str(checkout / 'scripts')}},
  ).execute()

  runs = checkout / parameters['RUNS']
  assert not (checkout / '.venv').exists()  # nothing was installed
  assert 'training on [CpuDevice(id=0)]' in _text(cells[2])
  summary = json.loads((runs / 'summary.json').read_text())
  assert summary['steps'] == 2
  assert summary['briefs'] == 10
  told = {cell.source: _text(cell) for cell in cells}
  before, taste, result, replies, after = (
    next(told[source] for source in told if f'\n{start}' in source)
    for start in (
      'before = ',
      "run_task('reward_model'",
      'summary = ',
      'changed = ',
      'after = ',
    )
  )
  accuracy = summary['reward_model']['heldout_accuracy']
  assert f'**{accuracy:.1%}**' in taste
  rates = [summary[f'pass_rate_{x}'] for x in ('base', 'trained')]
  row = ' | '.join(f'{rate:.1%}' for rate in rates)
  assert f'| Keeps every rule (strict) | {row} | ' in result
  assert '10 briefs, 4 replies to each; 2 steps' in result
  shown = [
    output.data['image/png']
    for cell in cells
    for output in cell.outputs
    if 'image/png' in output.get('data', {})
  ]
  assert len(shown) == 2
  assert replies.count('<b>trained</b>, keeps every rule in') == 4
  for printed in (before, after):
    assert len(re.findall('^— ', printed, re.M)) == 3
    assert printed.count('  breaks: ') == 3
  # the adapted weights write something else with the same random numbers
  assert before != after.split('writing score')[0]
  for name in ('before', 'after'):
    (scores,) = re.findall(f'writing score {name}: (.*)', after)
    assert len([*map(float, scores.split(', '))]) == 3
