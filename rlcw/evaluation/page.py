"""Pages that a person can judge a run by: one file each, with all it needs.

Replies are untrusted: they reach a page only by autoescaping and `clean`.
"""

import base64
import math
import pathlib

import jinja2

TEXT_LIMIT = 2000  # characters of one text that a page shows


def show(value: float | None, style: str = 'z.2f') -> str:
  """A number for people: a real minus sign, a dash where there is none."""
  if value is None or not math.isfinite(value):
    return '–'
  return format(value, style).replace('-', '−')


# Lone surrogates are not UTF-8; bidi overrides could forge the text around.
_VISIBLE = dict.fromkeys(
  [
    *range(0x7F, 0xA0),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
  ],
  0xFFFD,
)
_VISIBLE |= {c: 0x2400 + c for c in range(32) if c not in (9, 10)}


def clean(text: object) -> str:
  """Bounds untrusted text and makes its control characters visible."""
  shown = str(text)[:TEXT_LIMIT].translate(_VISIBLE)
  rest = len(str(text)) - TEXT_LIMIT
  return f'{shown} […{rest} more characters]' if rest > 0 else shown


def template(name: str) -> jinja2.Template:
  """A page's template: it escapes all, and fails where a value is missing."""
  environment = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parents[1]),
  )
  environment.filters |= {'clean': clean, 'show': show, 'b64': base64.b64encode}
  return environment.get_template(name)
