"""Reader of TensorFlow datasets (without TensorFlow), and our own builders.

Requires the extra `data`.  Only `datasets` imports this module, and only for
paths that begin with `tfds:`.  The import registers our builders by name:

  rlcw_briefs, rlcw_preferences     the files of `rlcw/data/assets`
  rlcw_greetings/CONFIG             the files published with arXiv 2508.21476,
                                    from a local folder

Ours have the splits and fields that `datasets` reads.  All datasets are stored
as array_record under TFDS_DATA_DIR, or else ~/tensorflow_datasets.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]

from rlcw import __version__
from rlcw.data import files, layouts

_TEXT = tfds.features.Text()
_ABOUT = {'id': _TEXT, 'language': _TEXT, 'genre': _TEXT, 'theme': _TEXT}
_RULES = {
  'instruction_id_list': tfds.features.Sequence(_TEXT),
  # Each as JSON, because a TFDS feature has one type and rules have different
  # arguments.
  'kwargs': tfds.features.Sequence(_TEXT),
}
_PAIR = {'prompt': _TEXT, 'chosen': _TEXT, 'rejected': _TEXT}


def read(path: str) -> list[dict[str, Any]]:
  """Reads all records of a dataset, and builds it first if necessary.

  Args:
    path: `NAME/CONFIG:VERSION?SPLIT`; all but NAME are optional.  SPLIT has
      the syntax of TFDS, such as `train[:10%]`.

  Returns:
    Records of texts, numbers, lists and dictionaries.  If SPLIT is absent and
    the dataset has several splits, `split` names that of each record.

  Raises:
    ValueError: there is no such dataset or split, or it cannot be built.
  """
  name, _, split = path.partition('?')
  try:
    source: Any = tfds.data_source(name, split=split or None)
  except (AssertionError, ValueError) as error:
    # TFDS appends the names of all its datasets, several hundred.
    reason = str(error).partition('\nAvailable')[0]
    raise ValueError(f'tfds:{path}: {reason}') from error
  # Without a split TFDS returns a dictionary of all splits.
  if not isinstance(source, dict):
    return [_to_json_value(item) for item in source]
  several = len(source) > 1
  return [
    {'split': split, **_to_json_value(item)}
    if several
    else _to_json_value(item)
    for split, items in source.items()
    for item in items
  ]


def _to_json_value(value: Any) -> Any:
  """Converts arrays to lists and bytes to text, as JSON has them."""
  if isinstance(value, dict):
    return {key: _to_json_value(item) for key, item in value.items()}
  if isinstance(value, (np.ndarray, np.generic)):
    value = value.tolist()
  if isinstance(value, list):
    return [_to_json_value(item) for item in value]
  # TFDS stores text as UTF-8 bytes.
  return value.decode('utf-8') if isinstance(value, bytes) else value


class _Builder:
  """The class attributes that TFDS requires of every builder."""

  # The shipped files change with the package, and a new version is rebuilt.
  VERSION = tfds.core.Version(__version__)
  # TFDS fails to infer it for a builder outside a dataset package.
  pkg_dir_path = files.ASSETS


def _dataset_info(builder: Any, features: dict[str, Any]) -> Any:
  """Describes a dataset that keeps the order of its files."""
  return builder.dataset_info_from_configs(
    features=tfds.features.FeaturesDict(features), disable_shuffling=True
  )


class _ShippedFile(_Builder):
  """Builder of a dataset from a file that the package ships."""

  FILE: str
  FEATURES: dict[str, Any]

  def _info(self) -> Any:
    return _dataset_info(self, self.FEATURES)

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # nothing is downloaded
    splits = 'train', 'heldout'
    return {split: self._generate_examples(split) for split in splits}

  def _generate_examples(
    self, split: str
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    # The key of an example is its line, which is unique in a file.
    for number, (_, record) in enumerate(files.read(self.FILE)):
      if record.pop('split') == split:
        if 'kwargs' in record:
          record['kwargs'] = [json.dumps(each) for each in record['kwargs']]
        yield number, record


class RlcwBriefs(_ShippedFile, tfds.core.GeneratorBasedBuilder):
  """Writing tasks with the rules that replies must follow."""

  FILE = '@briefs.jsonl'
  FEATURES = _ABOUT | _RULES | {'prompt': _TEXT}


class RlcwPreferences(_ShippedFile, tfds.core.GeneratorBasedBuilder):
  """Pairs of replies, a chosen and a rejected one."""

  FILE = '@preferences.jsonl'
  FEATURES = _ABOUT | _PAIR


class _Part(NamedTuple):
  """The files of a configuration by split, and their fields.

  A file has two possible names: a short one, and that of its publication.
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


class RlcwGreetings(_Builder, tfds.core.GeneratorBasedBuilder):
  """Chinese greetings from a folder of JSONL, JSON arrays or parquet."""

  BUILDER_CONFIGS = [  # noqa: RUF012, as TFDS declares it
    tfds.core.BuilderConfig(name=name) for name in _GREETINGS
  ]
  # TFDS shows this to a user whose manual directory lacks the files.
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
    # Briefs require an id and rules, which the published files lack.
    added = {'id': _TEXT, **_RULES} if self._is_briefs else {}
    return _dataset_info(
      self, self._part.features | added | {'language': _TEXT}
    )

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
    for place, record in files.read(file):
      number = int(place.rpartition(':')[2])  # the line
      record = layouts.convert(record)
      absent = sorted(fields.keys() - record.keys())
      if absent:
        raise ValueError(f'{place}: no field {", ".join(absent)}')
      # TFDS rejects fields that the features do not declare.
      example = {field: record[field] for field in fields} | {'language': 'zh'}
      if self._is_briefs:
        # Stable across runs, as long as the file does not change.
        example['id'] = f'{file.stem}-{number}'
        example |= {field: [] for field in _RULES}
      yield number, example


def _find(folder: Path, names: tuple[str, str]) -> Path:
  """Finds a file by either of its names, in any format that we read.

  Raises:
    ValueError: there is none.
  """
  ends = '.jsonl', '.json', '.parquet'
  for file in (folder / f'{name}{end}' for name in names for end in ends):
    if file.is_file():
      return file
  raise ValueError(
    f'{folder} has no {" or ".join(names)} as .jsonl, .json or .parquet file'
  )
