"""Words before a match that take back what it states.

A rule that is read wrongly does more harm than one that is not read.  So a
match after a negation, a permission or a condition is a rule only where its
pattern reads that itself.
"""

import re

_FLAGS = re.IGNORECASE
_BREAK = re.compile(
  r'[,;:.!?。\n()—]|--|\b(?:but|and|then)\b|但|而且|并且', _FLAGS
)
# Two negations: "don't forget to".
_AFFIRMED = re.compile(
  r"(?:n't|\bnot|\bnever) (?:forget|fail|hesitate|neglect) to\b|\bnot only\b"
  '|(?:不要|别)忘[了记]|不仅',
  _FLAGS,
)
# At the end of what is before an amount: "do not use", "must never be", 不得.
_BESIDE = re.compile(
  r"(?:(?<!\bwhy )\bnot|n't|\bnever|\bcannot|\bwithout|\bavoid(?:s|ing)?|\bnor"
  r'|\bneither|\bnothing|\binstead of|\brather than|\brefrain(?:s|ing)? from'
  r'|(?<!if )\bno)'
  r'(?: (?:be|being|go|going|run|running|get|getting|use|using|write|writing'
  r'|have|having|contain|containing|include|including|produce|give|need|want|to'
  r'|list|listing|create|creating|add|adding|provide|mention'
  r'|ever|it|any|anything|that|is|are|of|an?|the|in|total|text|story|poem|reply'
  r'|response|essay|answer)){0,4} ?$'
  '|(?:不(?:得|能|可以?|要|许|准|应该?|宜|会|允许)?|勿|(?<![分特区告离个级类])别'
  '|严禁|禁止|避免)'
  '(?:写|有|使用|用|出现|再|是|列|列出|列举|给出?|分成?|分为|加|提供)?$',
  _FLAGS,
)
# "Not fewer than 100 words or more than 200": the first of two such bounds.
_FIRST_BOUND = re.compile(
  r'\b(?:more|fewer|less|longer|shorter|over|under|above|below)(?: than)?'
  r' (?!than)[\w,-]+ \w+ (?:or|nor) $',
  _FLAGS,
)
_NEGATOR = re.compile(
  r'\b(?:not|never|no|nor|neither|nothing|without|avoid\w*|cannot|instead of'
  r"|rather than|refrain\w*)\b|n't\b"
  '|(?:不(?![多少足同仅错差断失乏分止妨知管]|超过|低于|高于|大于|小于)'
  '|(?<![特区分告离性级类个差])别|勿|禁止|避免|切忌|无需|无须)[^,。;:]{0,8}$',
  _FLAGS,
)
# What is not needed: it may be in a match, or before one.
_NEEDLESS = re.compile(
  r"(?:n't|\bnot) (?:have|need) to\b|\bneed(?:n't| not)\b"
  '|不一定|不必|没必要|无需',
  _FLAGS,
)
# After which a rule is an offer, not a demand.
_OFFERED = re.compile(
  rf'{_NEEDLESS.pattern}|\bno need\b|\bfeel free\b|\bmind if\b|\bbe afraid\b'
  r"|\b(?:it|that)(?:'s| is| would be) (?:\w+ )?(?:fine|ok|okay|alright"
  r'|all right|acceptable|possible)(?: for you)? to\b|\b(?:free|welcome) to\b'
  r"|n't care\b|\boptional|\b(?:maybe|perhaps|possibly)\b"
  '|不需要|不用|无须|不止|不限',
  _FLAGS,
)
_ALLOWED = re.compile(
  r'(?:\b(?:it|you) (?:can|could|may|might)|(?<!only )\ballowed to)'
  r'(?: (?:be|use|go|have|write|run))? ?$'
  '|(?<!不)可以?$',
  _FLAGS,
)
_BANNED = re.compile('(?:不要|不得|不能|禁止|别|勿)(?:使用|用|以)')
_ASKED = re.compile(
  r'(?:is|are|does|do|did|why|what|how|which|who|should|must)\b', _FLAGS
)
_REQUESTED = re.compile(r'\b(?:can|could|would|will) you\b', _FLAGS)
_CONDITION = re.compile(
  r'\b(?:if|unless|whenever)\b[^,]*$|(?:如果|要是|倘若|假如|若是)[^,。]*$'
  r'|^(?:if|unless|when|whenever)\b'
  r"(?! (?:possible|needed|you (?:can|could)\b(?!'t)))"
  r'[^,]*,[^,]*$|^(?:如果|要是|倘若|假如|若是)[^,。]*,[^,]*$',
  _FLAGS,
)
# Before what somebody in the text does: "the hero must never", "have her".
_ACTOR = re.compile(
  r'\b(?:(?:hero(?:ine)?|characters?|protagonist|narrator|robot|android|soldier'
  r'|developer|boss|he|she|they|who)(?: \w+){0,3}|her|him|learning to|how to)'
  r'\s*$',
  _FLAGS,
)


def clause(before: str) -> str:
  """Returns the last clause of a text."""
  return _BREAK.split(before)[-1]


def negates_amount(before: str) -> bool:
  """Returns whether a text ends with a negation of the amount after it."""
  return _BESIDE.search(_FIRST_BOUND.sub('', before)) is not None


def negates(before: str) -> bool:
  """Returns whether the last clause of a text has a negation."""
  return _NEGATOR.search(_AFFIRMED.sub(' ', clause(before))) is not None


def is_of_actor(before: str) -> bool:
  """Returns whether a text ends with somebody who does what follows."""
  return _ACTOR.search(before) is not None


def offers(before: str) -> bool:
  """Returns whether what follows a text is allowed, or not needed."""
  return _OFFERED.search(clause(before)) is not None


def allows(before: str) -> bool:
  """Returns whether a text ends with "you can use" or the like."""
  return _ALLOWED.search(before) is not None


def is_needless(text: str) -> bool:
  """Returns whether a match says that something is not needed."""
  return _NEEDLESS.search(text) is not None


def bans(text: str) -> bool:
  """Returns whether a match says that something is not to be used."""
  return _BANNED.search(text) is not None


def is_question(sentence: str) -> bool:
  """Returns whether a sentence asks something, and is no request."""
  asked = sentence.rstrip().endswith('?') and _ASKED.match(sentence)
  return bool(asked) and not _REQUESTED.search(sentence)


def is_condition(before: str) -> bool:
  """Returns whether what follows a text is a part of a condition."""
  return _CONDITION.search(before) is not None
