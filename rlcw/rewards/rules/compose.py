"""Random briefs whose rules can all be followed by one reply.

Rules that fit a theme are drawn one by one, and one that contradicts those
before it is rejected.  `contradiction` is conservative: it rejects any two
rules about the same aspect of the reply, although they might agree.
"""

import math
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rlcw.rewards.rules import wording
from rlcw.rewards.rules.arguments import RECIPES, Arguments, Theme, read_theme
from rlcw.rewards.rules.registry import VERIFIERS
from rlcw.rewards.rules.text import HAN_RUN, count_words
from rlcw.runtime.ranges import nearest

Rule = tuple[str, Arguments]
# Tries per brief to find enough compatible rules.
_ATTEMPTS = 50
# Rules that forbid something, which no other rule may require.
_BANS = (
  'keywords:forbidden_words',
  'punctuation:no_comma',
  'punctuation:no_exclamation',
  'punctuation:no_emoji',
  'style:no_self_reference',
  'style:no_cliche',
  'style:script',
)
# Rules that do so with the relation `less than`.
_FEW = (
  'keywords:frequency',
  'keywords:letter_frequency',
  'change_case:capital_word_frequency',
)


def _relation(kwargs: Arguments) -> str:
  relations = (kwargs[name] for name in kwargs if name.endswith('relation'))
  return next(relations, '')


def _required(kwargs: Arguments) -> Iterator[str]:
  """Texts that a reply must contain; '' where an argument is missing."""
  yield from kwargs.get('keywords', [])
  yield from kwargs.get('letters', '')
  for name in ('start_phrase', 'end_phrase', 'first_word', 'section_spliter'):
    yield kwargs.get(name, '')
  yield kwargs.get('postscript_marker', '')
  yield kwargs.get('prompt_to_repeat', '')
  if _relation(kwargs) == 'at least':
    for text, times in (('keyword', 'frequency'), ('letter', 'let_frequency')):
      # Repeated, because each occurrence takes up room.
      yield from [kwargs.get(text, '')] * kwargs.get(times, 0)


def _counts(kwargs: Arguments) -> tuple[float, float]:
  """Least and most of the things that a rule counts; 1 if it gives no number.

  Of two numbers the first is the count (`num_lines`, `num_paragraphs`); the
  other is a size (`num_characters`) or an index (`nth_paragraph`).
  """
  if 'at_least' in kwargs or 'at_most' in kwargs:
    return kwargs.get('at_least', 0), kwargs.get('at_most', math.inf)
  numbers = [each for each in kwargs.values() if isinstance(each, int)]
  # A rhyme scheme or an acrostic needs one line per letter.
  texts = [kwargs.get('scheme', ''), kwargs.get('letters', '')]
  count = numbers[0] if numbers else len(''.join(texts)) or 1
  match _relation(kwargs):
    case 'at least':
      return count, math.inf
    case 'less than':
      return 0, count - 1
  return count, count


def contradiction(rules: Sequence[Rule]) -> str:
  """Returns a reason why the rules may contradict each other, or ''.

  Args:
    rules: ids of `RECIPES` with their arguments; their order does not matter.
  """
  reasons = (
    check(rules) for check in (_settled_twice, _forbidden, _crowded, _cut)
  )
  return next(filter(None, reasons), '')


def _settled_twice(rules: Sequence[Rule]) -> str:
  """Finds two rules that decide the same aspect: size, opening, structure."""
  decided_by: dict[str, str] = {}
  for name, _ in rules:
    for aspect in RECIPES[name].settles.split():
      if aspect in decided_by:
        return f'{decided_by[aspect]} and {name} both decide the {aspect}'
      decided_by[aspect] = name
  return ''


def _forbidden(rules: Sequence[Rule]) -> str:
  """Finds a rule that forbids a word, mark or script that others require."""
  # The forbidding rule's own check decides, on a reply of only required texts.
  text = ' '.join(each for _, kwargs in rules for each in _required(kwargs))
  for name, kwargs in rules:
    few = name in _FEW and _relation(kwargs) == 'less than'
    bans = text.strip() and (few or name in _BANS)
    if bans and not VERIFIERS[name].check(text, **kwargs):
      return f'{name} {kwargs} forbids part of the required text: {text}'
  return ''


def _crowded(rules: Sequence[Rule]) -> str:
  """Finds a rule whose upper limit leaves no room for what others require.

  Everything is measured in words (Han characters), by `Recipe.words`.
  """
  texts = [each for _, kwargs in rules for each in _required(kwargs) if each]
  required = sum(map(count_words, texts))
  for name, kwargs in rules:
    _, max_words_each = RECIPES[name].words
    most = _counts(kwargs)[1] * max_words_each
    needs = [
      _counts(other_kwargs)[0] * RECIPES[other].words[0]
      for other, other_kwargs in rules
      if other != name
    ]
    # Twice, so that half of the length is free.  Of the other rules' minimum
    # lengths the largest counts, as the same words can serve them all.
    if 2 * required + max(needs, default=0) > most:
      return f'{name} {kwargs} leaves no room for the other rules'
  return ''


def _cut(rules: Sequence[Rule]) -> str:
  """Finds a required text that does not fit into one clause of a poem."""
  texts = [each for _, kwargs in rules for each in _required(kwargs) if each]
  for name, kwargs in rules:
    longest = kwargs.get('num_characters', math.inf)
    for text in texts if name == 'poem:clauses' else []:
      if not re.fullmatch(HAN_RUN, text) or len(text) > longest:
        return f'{name} {kwargs} has no clause for {text}'
  return ''


def _draw_rules(
  rng: random.Random,
  theme: Theme,
  least: int,
  most: int,
  allowed: Collection[str],
) -> tuple[list[Rule], int]:
  """Draws `least` to `most` compatible rules, and counts the rejected ones.

  Raises:
    ValueError: too few compatible rules were found in all attempts.
  """
  rejected = 0
  fitting = [
    name
    for name, recipe in RECIPES.items()
    if name in allowed and recipe.fits(theme)
  ]
  for _ in range(_ATTEMPTS):
    rules: list[Rule] = []
    target = rng.randint(least, most)
    for name in rng.sample(fitting, len(fitting)):
      if len(rules) == target:
        break
      # Every call advances `rng`: another order of draws would give a seed
      # other briefs.
      kwargs = RECIPES[name].draw(rng, theme)
      # The theme has nothing for this rule, such as no keywords.
      if kwargs is None:
        continue
      if contradiction([*rules, (name, kwargs)]):
        rejected += 1
      else:
        rules.append((name, kwargs))
    if len(rules) >= least:
      return rules, rejected
  raise ValueError(
    f'found no {least} rules that fit together for {theme.prompt!r:.80}; lower '
    'least_rules'
  )


def check_allowed(least: int, allowed: Collection[str]) -> None:
  """Checks the rules that briefs are to be drawn from.

  Args:
    least: least number of rules in a brief.
    allowed: ids of the rules to draw from; all where it is empty.

  Raises:
    ValueError: one cannot be drawn, or there are fewer than `least`.
  """
  for name in allowed:
    if name not in RECIPES:
      raise ValueError(
        f'rules: {name!r} is no rule that briefs draw'
        + (nearest(name, RECIPES) or f'; expected some of {", ".join(RECIPES)}')
      )
  if allowed and least > len(allowed):
    raise ValueError(
      f'at least {least} rules of the {len(allowed)} in `rules`; expected a '
      'smaller least_rules'
    )


def write_briefs(
  themes: Sequence[Mapping[str, Any]],
  count: int,
  seed: int,
  *,
  least: int = 1,
  most: int = 3,
  allowed: Collection[str] = (),
) -> tuple[list[dict[str, Any]], int]:
  """Writes random briefs, as records that `briefs.load_briefs` reads.

  Args:
    themes: records with `prompt`, and optionally `language`, `genre` (poem is
      verse, all others prose), `theme`, `keywords`, `recipient`.
    count: number of briefs.  A larger count only appends further ones.
    seed: of the order of themes and of all random choices.
    least: least number of rules in a brief.
    most: largest number of rules in a brief.
    allowed: ids of the rules to draw from; all where it is empty.

  Returns:
    The briefs, and the number of rules rejected as contradictory.

  Raises:
    ValueError: a theme is not valid, there is none, the range of rules is
      empty, too many rules are asked for, or none can be drawn by an id.
  """
  if not themes or not 0 < least <= most:
    raise ValueError(
      f'{len(themes)} themes, {least} to {most} rules: expected at least one '
      'theme, and 1 <= least <= most'
    )
  check_allowed(least, allowed)
  parsed = [*map(read_theme, themes)]
  order = random.Random(seed).sample(range(len(parsed)), len(parsed))
  briefs, rejections = [], 0
  for index in range(count):
    theme = parsed[order[index % len(parsed)]]
    # A generator for each brief makes it independent of the others and of
    # `count`.
    rng = random.Random(f'{seed} {index}')
    rules, rejected = _draw_rules(rng, theme, least, most, allowed or RECIPES)
    rejections += rejected
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
  return briefs, rejections
