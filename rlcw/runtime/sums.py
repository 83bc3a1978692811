"""Weighted sums of names, as the setting `writing` of `grpo` has them.

One name, or several with their weights:

  reward_model
  0.7*reward_model + 0.3*judge - 0.2*my_rewards:cliches
"""

import re

# Beyond these, the squares of a weighted score may leave float32.
LEAST_WEIGHT, LARGEST_WEIGHT = 1e-6, 1e6

_NUMBER = r'[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?'
# A minus inside of a name belongs to it: a name has no white space.
_TERM = re.compile(
  rf'\s*(?P<sign>[+-])\s*(?:(?P<weight>{_NUMBER})\s*\*\s*)?(?P<name>[^\s+*]+)'
)


def parse(text: str) -> dict[str, float]:
  """Parses a sum, and returns the weight of each name, in order.

  A text without white space, `+` and `*` is one name, whatever it contains.

  Raises:
    ValueError: the text is no sum, has a name twice, or a weight that is 0 or
      too small or large.
  """
  setting, text = f'writing={text!r:.120}', text.strip()
  if not re.search(r'[\s+*]', text):
    return {text: 1.0}
  signed = text if text[0] in '+-' else f'+{text}'
  weights: dict[str, float] = {}
  place = 0
  while place < len(signed):
    term = _TERM.match(signed, place)
    if not term:
      raise ValueError(
        f'{setting}: {signed[place:].strip()!r:.80} is no term; expected '
        'reward_model, judge, pairs, rubric, judge_logit, diversity or '
        'module:function, or several with weights, as in '
        "'0.7*reward_model + 0.3*judge'"
      )
    name = term['name']
    if name in weights:
      raise ValueError(
        f'{setting}: {name!r:.80} is named twice; expected each name once'
      )
    weight = float(term['sign'] + '1') * float(term['weight'] or 1)
    if not LEAST_WEIGHT <= abs(weight) <= LARGEST_WEIGHT:
      raise ValueError(
        f'{setting}: the weight of {name!r:.80} is {weight:g}; expected a '
        f'number other than 0, from {LEAST_WEIGHT:g} to {LARGEST_WEIGHT:g} in '
        'size'
      )
    weights[name] = weight
    place = term.end()
  return weights
