"""Replies, tokens and errors in the answers of a server.

The client validates nothing of a server's JSON: any field may be absent or of
any type.
"""

import re
from collections.abc import Callable
from typing import Any

import openai

from rlcw.data.characters import blank
from rlcw.data.messages import TEXT
from rlcw.models.thoughts import reply_of
from rlcw.models.tokenizer import valid_unicode
from rlcw.sampling.cache import Cut

# --- Completions --------------------------------------------------------------

# Finish reasons of replies that are not whole: OpenAI's length and
# content_filter, Mistral's model_length, DeepSeek's
# insufficient_system_resource, vLLM's abort, and others.
_CUT_BY = re.compile(
  'length|max_|limit|budget|exceed|context|truncat|time_?out|out_of|'
  'incomplete|insufficient|repetition|'
  'filter|safety|sensitive|spii|prohibit|block|recitation|refusal|other|'
  'preempt|error|malformed|abort|cancel|interrupt|pause',
  re.I,
)
# A count that no server can mean, whose price would be no number.
_MOST_TOKENS = 10**9


def text_of(completion: Any, masked: Callable[[str], str] = str) -> str:
  """Returns the reply of a chat completion, a `Cut` if it is not whole.

  Args:
    completion: of the client.
    masked: removes the key from a text, before that is cut or kept.

  Raises:
    ValueError: the completion is malformed, or has no reply.
  """
  try:
    choice = completion.choices[0]
    content = choice.message.content
  except (AttributeError, LookupError, TypeError):
    raise ValueError(
      f'not a chat completion: {masked(repr(_error_or_all(completion)))[:200]}'
    ) from None
  reason = getattr(choice, 'finish_reason', None)
  text = _joined(content)
  reply = reply_of(text) if isinstance(text, str) else ''
  if blank(reply):
    # Reasoning models reach `max_tokens` before their reply begins; then the
    # finish reason, 'length', explains the empty reply.
    refusal = getattr(choice.message, 'refusal', None)
    raise ValueError(
      f'empty: content={masked(repr(content))[:80]}, finish_reason={reason!r}'
      + (f', refusal={masked(repr(refusal))[:80]}' if refusal else '')
    )
  reply = masked(valid_unicode(reply))
  return Cut(reply) if _CUT_BY.search(str(reason)) else reply


def _error_or_all(completion: Any) -> Any:
  """Returns the error in an answer that is no completion, or all of it."""
  if not isinstance(completion, openai.BaseModel):
    return completion
  # Fields that the client adds would fill the message.
  found = {name: value for name, value in completion if value is not None}
  return found.get('error') or found


def _joined(content: Any) -> Any:
  """Joins the texts of a content in parts; thoughts are of another type."""
  if not isinstance(content, list) or not all(
    isinstance(part, dict) for part in content
  ):
    return content
  texts = [part.get('text') for part in content if part.get('type') in TEXT]
  return ''.join(text for text in texts if isinstance(text, str))


def tokens_of(completion: Any) -> tuple[int, int]:
  """Numbers of tokens of a prompt and its reply; 0 if none are reported."""
  usage = getattr(completion, 'usage', None)
  prompt = _tokens(usage, 'prompt_tokens', 'input_tokens')
  reply = _tokens(usage, 'completion_tokens', 'output_tokens')
  # Some servers count thoughts in the total alone.
  return prompt, max(reply, _tokens(usage, 'total_tokens') - prompt)


def _tokens(usage: Any, *names: str) -> int:
  """A count that a server reports, by the first of its names that is valid."""
  for name in names:
    count: Any = getattr(usage, name, None)
    # True is an integer in Python, and JSON may have 12.0 for 12.
    if type(count) in (int, float) and 0 <= count <= _MOST_TOKENS:
      return int(count)
  return 0


# --- Errors -------------------------------------------------------------------

# Statuses of a server that will not answer this prompt.
_REFUSED = 400, 413, 422
# Statuses that trying again cannot change: a key, a bill, or another address.
_LASTING = 301, 302, 307, 308, 401, 402, 403, 404, 405, 410
_WRONG_KEY = re.compile(
  r'api[ _]key[ _](?:is )?(?:not valid|invalid|expired)|'
  r'(?:invalid|incorrect|expired|unknown) api[ _]key',
  re.I,
)
# Settings that a server may refuse, in the order in which they are looked for.
_MAY_BE_REFUSED = 'max_tokens', 'temperature', 'response_format', 'system'
# Names under which servers complain of them.
_SPELLINGS = {
  'response_format': r'response[_ ]format|structured[_ ]outputs?|json_schema',
  'system': r'system[_ ](?:role|message|instruction|prompt)s?|'
  r'role\W{1,4}system|developer instructions?',
}
_OUT_OF_RANGE = re.compile(
  r'too (large|long|big|high|small|low)|at (most|least)|exceed|greater than|'
  r'less than|between|maximum|minimum|context|range|(must|should) be|positive|'
  r'\[-?\d',
  re.I,
)


def meaning(status: int | None, reason: str) -> tuple[bool, bool]:
  """Classifies an error, which may concern this prompt or every request.

  Args:
    status: of HTTP, if there was an answer.
    reason: in words.

  Returns:
    Whether trying again cannot help, and whether another prompt may be
    answered.
  """
  refused = status in _REFUSED
  # Gemini says so with status 400.
  if refused and _WRONG_KEY.search(reason):
    return True, False
  return status in _LASTING, refused


def refused_setting(error: openai.APIStatusError, sent: set[str]) -> str:
  """Returns the setting, or role, that an error refuses; '' if it is another.

  Args:
    error: the server's answer.
    sent: settings and roles of the request.
  """
  reason = _complaint(error)
  for name in _MAY_BE_REFUSED:
    spelling = _SPELLINGS.get(name, name)
    # A value that is out of range is a user's mistake.
    wrong = name not in _SPELLINGS and _OUT_OF_RANGE.search(reason)
    named = re.search(rf'\b(?:{spelling})\b', reason, re.I)
    if name in sent and named and not wrong:
      return name
  return ''


def _complaint(error: openai.APIStatusError) -> str:
  """Returns the text of an error's body that names the cause.

  Bodies are OpenAI's, FastAPI's, Cloudflare's, or a text.  The rest is left
  out, as it may repeat the request with every setting; vLLM repeats it in the
  message, after the cause.
  """
  body: Any = error.body
  found = body
  if isinstance(body, dict):
    found = body.get('detail') or body.get('errors') or body
  details = found if isinstance(found, list) else [found]
  # Gemini sends a list of errors, where others send one.
  details = [
    each.get('error', each) if isinstance(each, dict) else each
    for each in details
  ]
  names = 'message', 'param', 'loc', 'msg'
  said = [
    [*map(each.get, names), _passed_on(each)]
    if isinstance(each, dict)
    else each
    for each in details
  ]
  return re.split(r'[\'"]input\\?[\'"]\s*:', f'{said}', maxsplit=1)[0]


def _passed_on(error: dict[str, Any]) -> Any:
  """Returns the error of another server, as OpenRouter passes it on."""
  metadata = error.get('metadata')
  return metadata.get('raw') if isinstance(metadata, dict) else None
