"""The runs that a report is about: finding, reading and validating them.

`evaluate` names the run that it evaluated, and that run its reward model.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlcw import Config
from rlcw.evaluation.plots import ARMS, EVALUATED, PANELS
from rlcw.runtime import sums
from rlcw.runtime.runs import whole

# Label, field of evaluate's summary without its suffix (_base, _trained or
# _difference), format.
HEADLINE = (
  ('Keeps every rule (strict)', 'pass_rate', 'z.1%'),
  ('Keeps every rule (loose)', 'pass_rate_loose', 'z.1%'),
  ('Writing score', 'writing', 'z.2f'),
  ('Finished', 'finished', 'z.1%'),
  ('Mean length, tokens', 'length', 'z.1f'),
  ('Distinct-2', 'distinct2', 'z.3f'),
)
_WARNING = 'monitor step value threshold text'
_REPLY = 'text writing follow finished length parts? met? against? draft?'
# Schema: the fields of each file, and of each field whose value is an object
# or a list of objects.  A field with `?` is optional: older runs lack it.
_FIELDS = {
  'reward_model/summary.json': (
    'heldout_accuracy length_only_accuracy matched_accuracy heldout_pairs '
    'train_accuracy train_pairs length_correlation matched_length_only '
    'matched_pairs calibration_error wall_seconds'
  ),
  'grpo/metrics.jsonl': ' '.join(
    ['step']
    + [
      m + '?' * (not a)
      for p in (*PANELS, *EVALUATED)
      for m, a in p.columns.items()
    ]
    + ['seconds_step?']
  ),
  'grpo/rollouts.jsonl': 'step brief_id prompt replies rubric? note? '
  'learned_prompt? demonstration? turns?',
  'grpo/evaluations.jsonl': 'step brief_id prompt replies rubric? turns?',
  'grpo/stops.jsonl': _WARNING,
  'grpo/summary.json': 'steps wall_seconds max_violator_advantage hardware '
  'warnings? unmonitored? ended?',
  # `writing` is a text here and a number in a reply
  'grpo/config.json': 'steps? reward_model? verifiers? mixing?',
  'evaluate/evaluation.jsonl': 'brief_id language genre prompt group? rules '
  'base trained instruction_id_list kwargs? rubric? turns?',
  'evaluate/summary.json': ' '.join(
    [f'{key}_{arm}' for _, key, _ in HEADLINE for arm in ARMS]
    + [
      'briefs replies_per_brief wall_seconds pass_rate_difference '
      'writing_difference read?'
    ]
  ),
  'evaluate/config.json': 'run?',
  'replies': _REPLY
  + ' violated valid writing_reward? reward advantage unseen? spans?',
  'demonstration': 'text writing violated advantage',
  'warnings': _WARNING,
  'base': _REPLY,
  'trained': _REPLY,
  'read': 'run',
  'rubric': 'criterion weight',
  'mixing': 'name?',
  'pass_rate_difference': 'mean low high',
  'writing_difference': 'mean low high',
}
# Types of fields; fields not listed here are numbers, or null for NaN.
_TYPES = {
  'brief_id': (str, int),
  **dict.fromkeys(('hardware', 'unmonitored', 'parts'), (dict,)),
  **dict.fromkeys(
    (
      'criterion',
      'text',
      'prompt',
      'learned_prompt',
      'note',
      'draft',
      'language',
      'genre',
      'monitor',
    ),
    (str,),
  ),
  **dict.fromkeys(('run', 'reward_model', 'name', 'ended'), (str,)),
  **dict.fromkeys(
    ('follow', 'rules', 'instruction_id_list', 'replies', 'base', 'trained'),
    (list,),
  ),
  **dict.fromkeys(('warnings', 'read', 'verifiers', 'kwargs'), (list,)),
  **dict.fromkeys(('rubric', 'met', 'spans', 'against', 'turns'), (list,)),
  **dict.fromkeys(('finished', 'violated', 'valid'), (bool,)),
  **dict.fromkeys(('step', 'steps', 'briefs', 'replies_per_brief'), (int,)),
}


class Runs(NamedTuple):
  """Validated records of the runs."""

  # task -> workdir; `reward_model` only where one was used
  folders: dict[str, str]
  read: dict[str, Any]  # run, step, steps, finished: as evaluated
  # its summary.json; None: not used, or not known
  reward_model: dict[str, Any] | None
  # grpo/summary.json; of an unfinished run as much as is known
  grpo: dict[str, Any]
  grpo_config: dict[str, Any]  # grpo/config.json
  evaluation: dict[str, Any]  # evaluate/summary.json
  metrics: dict[str, np.ndarray]  # grpo/metrics.jsonl: each [steps], NaN: null
  groups: list[dict[str, Any]]  # grpo/rollouts.jsonl
  evaluations: list[dict[str, Any]]  # grpo/evaluations.jsonl, if there are any
  stops: list[dict[str, Any]]  # grpo/stops.jsonl: warnings that ended the run
  briefs: list[dict[str, Any]]  # evaluate/evaluation.jsonl
  notes: list[str]  # remarks for the page, such as lines skipped

  @property
  def writing(self) -> str:
    """The setting `writing` of training."""
    return writing_of(self.grpo_config)

  @property
  def parts(self) -> dict[str, float]:
    """The parts of the writing score, with their weights."""
    return sums.parse(self.writing)


def writing_of(grpo_config: dict[str, Any]) -> str:
  """The setting `writing`, which the oldest runs lack."""
  return str(grpo_config.get('writing', 'reward_model'))


def read_runs(config: Config) -> Runs:
  """Reads and validates the runs.

  Args:
    config: `evaluate`, the workdir of an evaluation.  `grpo` and `reward_model`
      may be empty: the evaluation names the run, and the run its reward model.

  Raises:
    FileNotFoundError: a folder or a file is missing.
    ValueError: a file is malformed (names the file, the line and the field), or
      a folder is not of the run that the others are of.
  """
  notes: list[str] = []
  evaluate = _folder(config.evaluate, 'evaluate')
  evaluation = _json(evaluate, 'evaluate/summary.json')
  briefs = _lines(evaluate, 'evaluate/evaluation.jsonl', notes)
  _check_verdicts(briefs, evaluate / 'evaluation.jsonl')
  for brief in briefs:
    replies = [reply for arm in ARMS for reply in brief[arm]]
    _check_met(brief, replies, evaluate / 'evaluation.jsonl')
  reads = evaluation.get('read') or [{}]
  named = reads[0].get('run') or _optional(
    evaluate, 'evaluate/config.json'
  ).get('run', '')
  # The best parameters of a run have its records.
  named = named and str(whole(Path(named)))
  folder = whole(
    _same(config, 'grpo', named, f'{evaluate} is an evaluation of', notes)
  )
  metrics = _lines(folder, 'grpo/metrics.jsonl', notes)
  # a resumed run may repeat steps: the last row of a step counts
  by_step = {row['step']: row for row in metrics}
  groups = _lines(folder, 'grpo/rollouts.jsonl', notes)
  evaluations, stops = (
    _lines(folder, f'grpo/{name}.jsonl', notes)
    if (file := folder / f'{name}.jsonl').is_file() and file.stat().st_size
    else []
    for name in ('evaluations', 'stops')
  )
  for file, lines in (('rollouts', groups), ('evaluations', evaluations)):
    for group in lines:
      _check_met(group, group['replies'], folder / f'{file}.jsonl')
  grpo_config = _json(folder, 'grpo/config.json')
  finished = (folder / 'summary.json').is_file()
  grpo = (
    _json(folder, 'grpo/summary.json')
    if finished
    else _unfinished(by_step, stops)
  )
  now = {
    'run': str(folder),
    'step': grpo['steps'],
    'steps': grpo_config.get('steps'),
    'finished': finished,
  }
  read = now | reads[0]
  notes += _remarks(read, now['step'], grpo)
  reward_folder, reward_model = _reward_model(
    config, folder, grpo_config, notes
  )
  folders = {'grpo': str(folder), 'evaluate': str(evaluate)}
  if reward_folder:
    folders['reward_model'] = reward_folder
  return Runs(
    folders,
    read,
    reward_model,
    grpo,
    grpo_config,
    evaluation,
    {
      name: np.array([by_step[s].get(name) for s in sorted(by_step)], float)
      for name in (
        *(name for _, name in _fields('grpo/metrics.jsonl')),
        *(f'writing/{part}' for part in sums.parse(writing_of(grpo_config))),
      )
    },
    _once(groups),
    _once(evaluations),
    stops,
    briefs,
    notes,
  )


def _remarks(
  read: dict[str, Any], step: int, grpo: dict[str, Any]
) -> list[str]:
  """Remarks on a run that has gone on, or whose rules were extracted.

  Args:
    read: the state of the run as it was evaluated.
    step: that it has reached.
    grpo: its summary.
  """
  remarks = []
  of_best = whole(Path(read['run'])) != Path(read['run'])
  if read['step'] != step and not of_best:
    remarks.append(
      f'The run has reached step {step} since it was evaluated at step '
      f'{read["step"]}.'
    )
  if extracted := grpo.get('extracted'):
    remarks.append(
      'The rules were read from the prompts: {rules} in {with_rules} of '
      '{prompts} prompts. {unread} texts read like a requirement and state '
      'no rule that is known.'.format(**extracted)
    )
  return remarks


def _once(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """The last line of each step and brief."""
  by_place = {(g['step'], g['brief_id'], g['prompt']): g for g in groups}
  return list(by_place.values())


# --- Folders ----------------------------------------------------------------


def _folder(value: Any, task: str) -> Path:
  """Folder of a setting.

  Raises:
    FileNotFoundError: the setting is empty or names no folder.
  """
  folder = Path(str(value)).expanduser()
  if not value or not folder.is_dir():
    raise FileNotFoundError(
      f'{task}={str(value)!r}: expected the workdir of a `{task}` run'
    )
  return folder


def _same(
  config: Config, task: str, named: str, owner: str, notes: list[str]
) -> Path:
  """Folder of a task: the one that is named, which a setting may only confirm.

  Args:
    config: of the report.
    task: of the folder, and the setting's name.
    named: the folder that another run names, '' if it names none.
    owner: words for that other run.
    notes: gets a remark where the folder that is named has been moved.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: the setting names another folder.
  """
  given = str(config.get(task) or '')
  if not given:
    if not named or not Path(named).expanduser().is_dir():
      raise FileNotFoundError(
        f'{owner} {named or "an unknown run"}, which is not there: '
        f'--config.{task} says where it is now'
      )
    return _folder(named, task)
  folder = _folder(given, task)
  if named and Path(named).expanduser().resolve() != folder.resolve():
    if Path(named).expanduser().is_dir():
      raise ValueError(
        f"{task}={given!r}, but {owner} {named!r}; expected that, or {task}=''"
      )
    notes.append(f'{owner} {named}; {folder} was read in its place.')
  return folder


def _reward_model(
  config: Config, grpo: Path, grpo_config: dict[str, Any], notes: list[str]
) -> tuple[str, dict[str, Any] | None]:
  """The reward model that a run was trained with, and its summary.

  Returns:
    '' without a reward model; the summary is None where the reward model is not
    known to be a workdir, such as a checkpoint on the Hub.

  Raises:
    FileNotFoundError, ValueError: see `_same`; or the run used none.
  """
  given, writing = config.get('reward_model'), writing_of(grpo_config)
  if 'reward_model' not in sums.parse(writing):
    if given:
      raise ValueError(
        f'reward_model={given!r}, but {grpo} was trained with writing='
        f"{writing!r} and no reward model; expected reward_model=''"
      )
    return '', None
  named = str(grpo_config.get('reward_model', ''))
  if not given:
    folder = Path(named).expanduser()
    if not named or not (folder / 'summary.json').is_file():
      return named or 'unknown', None
    return named, _json(folder, 'reward_model/summary.json')
  folder = _same(
    config, 'reward_model', named, f'{grpo} was trained with', notes
  )
  return str(folder), _json(folder, 'reward_model/summary.json')


# --- Files ------------------------------------------------------------------


def _unfinished(
  by_step: dict[int, dict[str, Any]], stops: list[dict[str, Any]]
) -> dict[str, Any]:
  """A summary of a run that has none yet, from its rows of metrics.

  Its warnings are known if they have stopped it.
  """
  return {
    **({'warnings': stops} if stops else {}),
    'steps': max(by_step) + 1,
    'max_violator_advantage': None,
    'hardware': {},
    'wall_seconds': sum(r.get('seconds_step') or 0 for r in by_step.values()),
  }


def _check_verdicts(briefs: list[dict[str, Any]], file: Path) -> None:
  """Checks that rules, their arguments and verdicts pair up.

  `_schema_errors` sees one field at a time, so lengths are compared here.

  Raises:
    ValueError: names the brief.
  """
  for brief in briefs:
    verdicts = [reply['follow'] for arm in ARMS for reply in brief[arm]]
    count = len(brief['instruction_id_list'])
    lists = [*verdicts, brief['rules'], brief.get('kwargs', [{}] * count)]
    known = all(v in (True, False, None) for each in verdicts for v in each)
    if not known or any(len(each) != count for each in lists):
      raise ValueError(
        f'{file}, brief {brief["brief_id"]!r:.99}: expected "rules", "kwargs" '
        'and each reply\'s "follow" (true, false or null) to be as long as '
        '"instruction_id_list"'
      )


def _check_met(
  record: dict[str, Any], replies: list[dict[str, Any]], file: Path
) -> None:
  """Checks that a rubric and the verdicts on its criteria pair up.

  Raises:
    ValueError: names the brief.
  """
  count = len(record.get('rubric', []))
  for reply in replies:
    met = reply.get('met', [None] * count)
    if len(met) != count or any(v not in (True, False, None) for v in met):
      raise ValueError(
        f"{file}, brief {record['brief_id']!r:.99}: expected each reply's "
        '"met" (true, false or null) to be as long as "rubric"'
      )


def _path(folder: Path, name: str) -> Path:
  """Path of file `name`, TASK/FILE, in the workdir of that task.

  Raises:
    FileNotFoundError: there is no such file.
  """
  task, file = name.split('/')
  path = folder / file
  if not path.is_file():
    unfinished = (folder / 'config.json').is_file() and file == 'summary.json'
    raise FileNotFoundError(
      f'{path} is missing: '
      + (
        f'this `{task}` run has not finished'
        if unfinished
        else f'config.{task} should name the folder of a {task} run'
      )
    )
  return path


def _json(folder: Path, name: str) -> dict[str, Any]:
  """Reads a JSON file; raises as `_path` and `_parse`."""
  path = _path(folder, name)
  return _parse(path.read_bytes(), name, str(path))


def _optional(folder: Path, name: str) -> dict[str, Any]:
  """Reads a JSON file; empty if there is none."""
  there = (folder / name.split('/')[1]).is_file()
  return _json(folder, name) if there else {}


def _lines(folder: Path, name: str, notes: list[str]) -> list[dict[str, Any]]:
  """Reads a JSONL file; appends to `notes` if its last line is cut off.

  Raises:
    FileNotFoundError, ValueError: as `_path` and `_parse`, or no line is whole.
  """
  path, records = _path(folder, name), []
  for number, line in enumerate(path.read_bytes().splitlines(True), 1):
    where = f'{path}:{number}'
    try:
      records.append(_parse(line, name, where))
    except ValueError as error:
      # A process killed while writing leaves a last line without its newline
      # that is not JSON.  Anything else is an error.
      if line.endswith(b'\n') or not error.__cause__:
        raise
      notes.append(f'{where} breaks off (a killed run?): skipped.')
  if not records:
    raise ValueError(f'{path}: expected at least one whole line of JSON')
  return records


def _parse(text: bytes, name: str, where: str) -> dict[str, Any]:
  """Parses and validates one JSON object of file `name`.

  Raises:
    ValueError: it is not JSON (then with a `__cause__`) or not of the schema.
  """
  try:
    # NaN and Infinity, which some writers emit, become null
    record = json.loads(text, parse_constant=lambda _: None)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{where}: expected one JSON object: {error}') from error
  if errors := list(_schema_errors(record, name)):
    raise ValueError(f'{where}: {"; ".join(errors[:4])}')
  return record


def _fields(name: str) -> list[tuple[bool, str]]:
  """Parses a schema entry into (optional, name) for each field."""
  return [(f.endswith('?'), f.rstrip('?')) for f in _FIELDS[name].split()]


def _schema_errors(value: Any, name: str, where: str = '') -> Iterator[str]:
  """Describes each place where `value`, of field or file `name`, is invalid.

  `where` is the path of fields to the value, each with a leading dot.
  """
  number = (int, float, type(None))
  types = _TYPES.get(name, (dict,) if name in _FIELDS else number)
  # a list of objects has at least one, except warnings
  empty = value == [] and name in _FIELDS and name != 'warnings'
  if not isinstance(value, types) or empty:
    names = ' or '.join(each.__name__ for each in types)
    yield f'{where[1:] or "it"} should be {names}, not {value!r:.40}'
  elif name == 'parts':
    for part, score in value.items():
      yield from _schema_errors(score, 'score', f'{where}.{part}')
  elif name in _FIELDS:
    for item in value if isinstance(value, list) else [value]:
      for optional, field in _fields(name):
        if isinstance(item, dict) and field in item:
          yield from _schema_errors(item[field], field, f'{where}.{field}')
        elif not optional:
          yield f'{where}.{field} is missing'[1:]
