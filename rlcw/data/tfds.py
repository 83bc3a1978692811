"""TensorFlow datasets, without TensorFlow: what we ship, and greetings.

Needs the extra `data`; only `data` imports this, and only where a path in a
config begins with `tfds:`.  Importing it makes our builders known by name:

  rlcw_briefs, rlcw_preferences     the files of `rlcw/data/assets`
  rlcw_greetings/CONFIG             a folder of files that the user has
                                    (arXiv 2508.21476 published them)

Ours have the splits and fields that `data` reads.  All are stored as
array_record under TFDS_DATA_DIR, else ~/tensorflow_datasets.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]

from rlcw import __version__
from rlcw.data import files

_TEXT = tfds.features.Text()
_ABOUT = {'id': _TEXT, 'language': _TEXT, 'genre': _TEXT, 'theme': _TEXT}
_RULES = {
  'instruction_id_list': tfds.features.Sequence(_TEXT),
  'kwargs': tfds.features.Sequence(_TEXT),  # each as JSON: fields have types
}
_PAIR = {'prompt': _TEXT, 'chosen': _TEXT, 'rejected': _TEXT}


def read(path: str) -> list[dict[str, Any]]:
  """All records of a dataset, which is built first where it is not yet.

  Args:
    path: `NAME/CONFIG:VERSION?SPLIT`, of which all but the name may be absent;
      SPLIT is as in TFDS, so `train[:10%]` is one.

  Returns:
    Records of texts, numbers, lists and dictionaries.  Where no split is asked
    for and there are several, `split` is that of the record.

  Raises:
    ValueError: there is no such dataset or split, or it cannot be built.
  """
  name, _, split = path.partition('?')
  try:
    source: Any = tfds.data_source(name, split=split or None)
  except (AssertionError, ValueError) as error:
    reason = str(error).partition('\nAvailable')[0]  # hundreds of names
    raise ValueError(f'tfds:{path}: {reason}') from error
  if not isinstance(source, dict):
    return [_plain(item) for item in source]
  several = len(source) > 1
  return [
    {'split': split, **_plain(item)} if several else _plain(item)
    for split, items in source.items()
    for item in items
  ]


def _plain(value: Any) -> Any:
  """The value as JSON would give it."""
  if isinstance(value, dict):
    return {key: _plain(each) for key, each in value.items()}
  if isinstance(value, (np.ndarray, np.generic)):
    value = value.tolist()
  if isinstance(value, list):
    return [_plain(each) for each in value]
  return value.decode('utf-8') if isinstance(value, bytes) else value


class _Ours:
  """What TFDS asks of every builder."""

  VERSION = tfds.core.Version(__version__)  # what we ship changes with it
  pkg_dir_path = files.ASSETS  # TFDS fails to guess it outside a package


def _describe(builder: Any, features: dict[str, Any]) -> Any:
  """The description of a dataset that stays in the order of its files."""
  return builder.dataset_info_from_configs(
    features=tfds.features.FeaturesDict(features), disable_shuffling=True
  )


class _Shipped(_Ours):
  """A file that the package ships."""

  FILE: str
  FEATURES: dict[str, Any]

  def _info(self) -> Any:
    return _describe(self, self.FEATURES)

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing is fetched
    splits = 'train', 'heldout'
    return {split: self._generate_examples(split) for split in splits}

  def _generate_examples(
    self, split: str
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, record in files.read(files.resolve(self.FILE)):
      if record.pop('split') == split:
        if 'kwargs' in record:
          record['kwargs'] = [json.dumps(each) for each in record['kwargs']]
        yield number, record


class RlcwBriefs(_Shipped, tfds.core.GeneratorBasedBuilder):
  """Writing tasks and the rules that replies must keep."""

  FILE = '@briefs.jsonl'
  FEATURES = _ABOUT | _RULES | {'prompt': _TEXT}


class RlcwPreferences(_Shipped, tfds.core.GeneratorBasedBuilder):
  """Pairs of replies of which one was preferred."""

  FILE = '@preferences.jsonl'
  FEATURES = _ABOUT | _PAIR


class _Part(NamedTuple):
  """The files that a configuration is made of, by split, and their fields.

  Each file has the name that it was published under, and a short one.
  """

  files: dict[str, tuple[str, str]]
  features: dict[str, Any]


_REPLY = {'prompt': _TEXT, 'response': _TEXT}
_GREETINGS = {
  'sft': _Part({'train': ('sft', 'sft/sft_data')}, _REPLY),
  'preferences': _Part(
    {
      'train': ('preference_train', 'reward_model/reward_data_train'),
      'heldout': ('preference_dev', 'reward_model/reward_data_test'),
    },
    _PAIR,
  ),
  'labelled': _Part(
    {'heldout': ('labelled_dev', 'evaluation_set/evaluate_data')},
    _REPLY | {'label': tfds.features.Scalar(np.int64)},
  ),
  'briefs': _Part(
    {
      'train': ('briefs_train', 'grpo_data/train'),
      'heldout': ('briefs_test', 'grpo_data/test'),
    },
    {'prompt': _TEXT},
  ),
}


class RlcwGreetings(_Ours, tfds.core.GeneratorBasedBuilder):
  """Chinese greetings from a folder of JSONL, JSON arrays or parquet."""

  BUILDER_CONFIGS = [  # noqa: RUF012, as TFDS declares it
    tfds.core.BuilderConfig(name=name) for name in _GREETINGS
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    'link the published folder `dataset` as `rlcw_greetings` into it. '
    'Expected there, each as .jsonl, .json or .parquet: '
    + ', '.join(
      ' or '.join(names)
      for p in _GREETINGS.values()
      for names in p.files.values()
    )
  )

  def _info(self) -> Any:
    # a brief has an id and rules; here there are none
    more = {'id': _TEXT, **_RULES} if self._is_briefs else {}
    return _describe(self, self._part.features | more | {'language': _TEXT})

  @property
  def _part(self) -> _Part:
    config: Any = self.builder_config
    return _GREETINGS[config.name]

  @property
  def _is_briefs(self) -> bool:
    return self._part is _GREETINGS['briefs']

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    folder = Path(dl_manager.manual_dir) / 'rlcw_greetings'
    return {
      split: self._generate_examples(_find(folder, names))
      for split, names in self._part.files.items()
    }

  def _generate_examples(
    self, file: Path
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    fields = self._part.features
    for number, record in files.read(file):
      absent = sorted(fields.keys() - record.keys())
      if absent:
        raise ValueError(f'{file}:{number}: no field {", ".join(absent)}')
      kept = {field: record[field] for field in fields} | {'language': 'zh'}
      if self._is_briefs:
        kept['id'] = f'{file.stem}-{number}'
        kept |= {rules: [] for rules in _RULES}
      yield number, kept


def _find(folder: Path, names: tuple[str, str]) -> Path:
  """The one file by either name, in a format that we read."""
  ends = '.jsonl', '.json', '.parquet'
  for file in (folder / f'{name}{end}' for name in names for end in ends):
    if file.is_file():
      return file
  raise ValueError(
    f'{folder} has no {" or ".join(names)} as .jsonl, .json or .parquet'
  )
