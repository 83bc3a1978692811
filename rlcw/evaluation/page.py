"""Self-contained HTML pages about runs.

A page is one file with its style and images inline.  Replies are untrusted:
they reach a page only through autoescaping and `clean`, names through `name`.
"""

import base64
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from rlcw.evaluation import names

# Characters of one text that a page shows.
TEXT_LIMIT = 2000


def show(value: float | None, style: str = 'z.2f') -> str:
  """Formats a number for people; None, NaN and infinity become a dash.

  `style` is a format specification; `z` turns a rounded −0 into 0.
  """
  if value is None or not math.isfinite(value):
    return '–'
  # typographic minus (U+2212) instead of a hyphen
  return format(value, style).replace('-', '−')


# Shown as U+FFFD: C1 controls, bidi embeddings and isolates, which can reorder
# the text around a reply, and lone surrogates, which UTF-8 cannot encode.
_VISIBLE = dict.fromkeys(
  [
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
  ],
  0xFFFD,
)
# C0 controls become their Unicode pictures; tab and newline stay.
_VISIBLE |= {c: 0x2400 + c for c in range(32) if c not in (9, 10)}


def clean(text: object) -> str:
  """Truncates untrusted text and makes its control characters visible."""
  shown = str(text)[:TEXT_LIMIT].translate(_VISIBLE)
  rest = len(str(text)) - TEXT_LIMIT
  return f'{shown} […{rest} more characters]' if rest > 0 else shown


def underline(
  text: object, spans: Sequence[Sequence[int]] = ()
) -> markupsafe.Markup:
  """Underlines spans of characters in untrusted text, as of `clean`."""
  shown, parts, at = clean(text), [], 0
  for start, end in sorted(spans, key=list):
    # Not the note after a cut text.
    start, end = min(start, TEXT_LIMIT), min(end, TEXT_LIMIT)
    if start == end:
      continue
    parts += [
      markupsafe.escape(shown[at:start]),
      markupsafe.Markup('<u>{}</u>').format(shown[start:end]),
    ]
    at = end
  return markupsafe.Markup('').join([*parts, shown[at:]])


def name(text: object) -> markupsafe.Markup:
  """Marks up a name (`names.label`), apart from the direction of its text."""
  return markupsafe.Markup('<bdi>{}</bdi>').format(names.label(text))


def read_step(read: Mapping[str, Any]) -> str:
  """Words the step of a run that was read, as in "step 6 of 32".

  Args:
    read: `step` and the `steps` of the whole run; one that is not known is
      None or absent.
  """
  step, steps = read.get('step'), read.get('steps')
  at = 'an unknown step' if step is None else f'step {step}'
  return at if steps is None else f'{at} of {steps}'


def template(path: str) -> jinja2.Template:
  """Loads a page's template by its path inside the package.

  Every value is escaped.  Rendering raises `jinja2.UndefinedError` where a
  value is missing.
  """
  environment = jinja2.Environment(
    autoescape=True,
    # a missing value is an error, not an empty string
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parents[1]),
  )
  environment.filters |= {
    'clean': clean,
    'label': names.label,
    'name': name,
    'read_step': read_step,
    'show': show,
    'underline': underline,
    'png': _inline,
  }
  return environment.get_template(path)


def _inline(png: bytes) -> str:
  """Returns a PNG as an address, for `src`."""
  return f'data:image/png;base64,{base64.b64encode(png).decode()}'
