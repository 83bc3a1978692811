"""Fields in the header of a GGUF file, which are untrusted."""

from pathlib import Path
from typing import Any

NUMBER = int | float


class Header:
  """Reads the fields of a file's architecture, which are untrusted.

  Raises:
    ValueError: a field is missing or damaged; names the file and the field.
  """

  def __init__(self, file: Path, reader: Any):
    self.file = file
    self._reader = reader
    self.architecture = self.general('general.architecture', str)

  def general(self, key: str, kind: Any, *default: Any) -> Any:
    """A field's value; required unless a default is given."""
    field = self._reader.get_field(key)
    if field is None and default:
      return default[0]
    try:
      value: Any = None if field is None else field.contents()
    except UnicodeDecodeError as error:
      raise ValueError(f'{self.file}: {key} is not text: {error}') from None
    if isinstance(value, bool) or not isinstance(value, kind):
      raise ValueError(f'{self.file}: {key}={value!r:.80}; expected {kind}')
    # Integers beyond 64 bits are no numbers of JAX.
    return float(value) if kind is NUMBER else value

  def get(self, key: str, kind: Any, *default: Any) -> Any:
    """A value of the architecture's own field."""
    return self.general(f'{self.architecture}.{key}', kind, *default)

  def of_layers(self, key: str, layers: int) -> list[int]:
    """Values of all layers, for which a file has one number or a list."""
    value = self.get(key, int | list)
    if isinstance(value, int):
      return [value] * layers
    if len(value) != layers or not all(type(each) is int for each in value):
      raise self.error(key, value, f'{layers} integers')
    return value

  def error(self, key: str, value: object, expected: str) -> ValueError:
    return ValueError(
      f'{self.file}: {self.architecture}.{key}={value!r:.80} is not '
      f'supported; expected {expected}'
    )
