"""A writer of random briefs whose rules some reply can keep together.

Rules that fit a theme are drawn for it one by one, and one that `contradiction`
finds at odds with those before it is refused. It lets pass less than could be
satisfied: two rules that settle the same thing never meet, though they might
agree.
"""

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rlcw.rewards.rules import wording
from rlcw.rewards.rules.arguments import RECIPES, Arguments, Theme, read_theme
from rlcw.rewards.rules.registry import VERIFIERS
from rlcw.rewards.rules.text import HAN_RUN, count_words

Rule = tuple[str, Arguments]
# To find as many rules as asked for that go together.
_ATTEMPTS = 50
# What must be in a reply must not be what one of these forbids.
_BANS = (
  'keywords:forbidden_words',
  'punctuation:no_comma',
  'punctuation:no_exclamation',
  'punctuation:no_emoji',
  'style:no_self_reference',
  'style:no_cliche',
  'style:script',
)
_FEW = (
  'keywords:frequency',
  'keywords:letter_frequency',
  'change_case:capital_word_frequency',
)


def _relation(kwargs: Arguments) -> str:
  relations = (kwargs[name] for name in kwargs if name.endswith('relation'))
  return next(relations, '')


def _required(kwargs: Arguments) -> Iterator[str]:
  """The texts that a reply must have in it."""
  yield from kwargs.get('keywords', [])
  yield from kwargs.get('letters', '')
  for name in ('start_phrase', 'end_phrase', 'first_word', 'section_spliter'):
    yield kwargs.get(name, '')
  yield kwargs.get('postscript_marker', '')
  yield kwargs.get('prompt_to_repeat', '')
  if _relation(kwargs) == 'at least':
    for text, times in (('keyword', 'frequency'), ('letter', 'let_frequency')):
      yield from [kwargs.get(text, '')] * kwargs.get(times, 0)


def _counts(kwargs: Arguments) -> tuple[float, float]:
  """How many the rule asks for, at least and at most; one where it names none.

  Of two numbers the first is how many; the other is of each, or which.
  """
  if 'at_least' in kwargs or 'at_most' in kwargs:
    return kwargs.get('at_least', 0), kwargs.get('at_most', math.inf)
  numbers = [each for each in kwargs.values() if isinstance(each, int)]
  texts = [kwargs.get('scheme', ''), kwargs.get('letters', '')]
  count = numbers[0] if numbers else len(''.join(texts)) or 1
  match _relation(kwargs):
    case 'at least':
      return count, math.inf
    case 'less than':
      return 0, count - 1
  return count, count


def contradiction(rules: Sequence[Rule]) -> str:
  """Why no reply is sure to keep all the rules; empty where one can."""
  faults = (
    check(rules) for check in (_settled_twice, _forbidden, _crowded, _cut)
  )
  return next(filter(None, faults), '')


def _settled_twice(rules: Sequence[Rule]) -> str:
  """Two rules decide the same: the length, the opening, the lines."""
  settled = {}
  for name, _ in rules:
    for matter in RECIPES[name].settles.split():
      if matter in settled:
        return f'{settled[matter]} and {name} both settle the {matter}'
      settled[matter] = name
  return ''


def _forbidden(rules: Sequence[Rule]) -> str:
  """What one rule requires another forbids: a word, a mark, a script."""
  text = ' '.join(each for _, kwargs in rules for each in _required(kwargs))
  for name, kwargs in rules:
    few = name in _FEW and _relation(kwargs) == 'less than'
    bans = text.strip() and (few or name in _BANS)
    if bans and not VERIFIERS[name].check(text, **kwargs):
      return f'{name} {kwargs} forbids some of what is required: {text}'
  return ''


def _crowded(rules: Sequence[Rule]) -> str:
  """What the rules require has no room in the length that one of them sets."""
  texts = [each for _, kwargs in rules for each in _required(kwargs) if each]
  required = sum(map(count_words, texts))
  for name, kwargs in rules:
    _, room = RECIPES[name].words
    most = _counts(kwargs)[1] * room
    needs = [
      _counts(others)[0] * RECIPES[other].words[0]
      for other, others in rules
      if other != name
    ]
    # Half of the room is for the writer's own words.
    if 2 * required + max(needs, default=0) > most:
      return f'{name} {kwargs} leaves no room for the other rules'
  return ''


def _cut(rules: Sequence[Rule]) -> str:
  """A text that is required does not fit into any clause of a poem."""
  texts = [each for _, kwargs in rules for each in _required(kwargs) if each]
  for name, kwargs in rules:
    longest = kwargs.get('num_characters', math.inf)
    for text in texts if name == 'poem:clauses' else []:
      if not re.fullmatch(HAN_RUN, text) or len(text) > longest:
        return f'{name} {kwargs} has no clause for {text}'
  return ''


def _draw_rules(
  rng: random.Random, theme: Theme, least: int, most: int
) -> tuple[list[Rule], int]:
  """Rules that go together, and how many were refused on the way."""
  refused = 0
  fit = [name for name, recipe in RECIPES.items() if recipe.fits(theme)]
  for _ in range(_ATTEMPTS):
    rules: list[Rule] = []
    wanted = rng.randint(least, most)
    for name in rng.sample(fit, len(fit)):
      if len(rules) == wanted:
        break
      kwargs = RECIPES[name].draw(rng, theme)
      if kwargs is None:
        continue
      if contradiction([*rules, (name, kwargs)]):
        refused += 1
      else:
        rules.append((name, kwargs))
    if len(rules) >= least:
      return rules, refused
  raise ValueError(f'no {least} rules go together for {theme.prompt!r:.80}')


def write_briefs(
  themes: Sequence[Mapping[str, Any]],
  count: int,
  seed: int,
  *,
  least: int = 1,
  most: int = 3,
) -> tuple[list[dict[str, Any]], int]:
  """Briefs as `data.load_briefs` reads them, every theme in turn.

  Args:
    themes: records with `prompt`, and `language`, `genre` (verse for poem,
      else prose), `theme`, `keywords`, `recipient` where they have them.
    count: how many briefs; the first of more are the same.
    seed: of the order of the themes and of all that is drawn.
    least: rules in a brief.
    most: rules in a brief.

  Returns:
    The briefs, and how many combinations of rules were refused as
    contradictory.

  Raises:
    ValueError: a theme is not legal, or too many rules are asked for.
  """
  if not themes or not 0 < least <= most:
    raise ValueError(
      f'{len(themes)} themes, {least} to {most} rules; there must be a theme, '
      'and 1 rule or more'
    )
  read = [*map(read_theme, themes)]
  order = random.Random(seed).sample(range(len(read)), len(read))
  briefs, refusals = [], 0
  for index in range(count):
    theme = read[order[index % len(read)]]
    rng = random.Random(f'{seed} {index}')
    rules, refused = _draw_rules(rng, theme, least, most)
    refusals += refused
    briefs.append(
      {
        'id': f'{theme.language}-{theme.genre or "any"}-{index:06}',
        'language': theme.language,
        'genre': theme.genre,
        'theme': theme.theme or theme.prompt,
        'split': theme.split,
        'prompt': theme.prompt,
        'instruction_id_list': [name for name, _ in rules],
        'kwargs': [kwargs for _, kwargs in rules],
        'paraphrase': rng.randrange(wording.PARAPHRASES),
      }
    )
  return briefs, refusals
