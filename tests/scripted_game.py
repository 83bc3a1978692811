"""A world where a flaw is a phrase, and only a rule that names it reveals it.

Its agents are scripted, and see nothing but their prompts: the detector finds
a phrase only if its principles name the flaw, the generator plants only what
its own rules name.  Chance is the hash of a prompt, so that the same question
always gets the same answer.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlcw.sampling.prompts import template

FLAWS = {
  'cliche': 'as sweet as honey',
  'flattery': 'the greatest person who ever lived',
  'blank': 'dear [Name]',
  'moralising': 'and the lesson is',
  'gushing': 'so so so happy',
  'ageism': 'at your age',
  'slogan': 'dare to dream',
  'wrong feast': 'merry Christmas',
}
LENGTH = 'Longer is better.'  # a harmful rule, which this detector obeys
LONG = 90  # characters
ROLES = 'judge generator reflector optimiser_judging optimiser_construction'

Ask = Callable[[Sequence[str]], list[str | None]]


def chance(*parts: Any) -> float:
  """A number from 0 to 1 that these parts decide."""
  # without the ids of questions, which differ from run to run
  text = re.sub('[0-9a-f]{16}', '', repr(parts))
  digest = hashlib.sha256(text.encode()).digest()
  return int.from_bytes(digest[:6]) / 2**48


def write(brief: str, flaw: str = '', salt: str = '') -> str:
  """A reply of a length that has nothing to do with its flaw."""
  filler = 'the rain on the tin roof, ' * (1 + int(5 * chance(brief, salt)))
  return f'{filler}{FLAWS.get(flaw, "a plum in each pocket")}, {brief[-9:]}'


def flaws_in(reply: str) -> list[str]:
  return [name for name, phrase in FLAWS.items() if phrase in reply]


def named(text: str) -> list[str]:
  return [name for name in FLAWS if name in text]


@functools.cache
def _form(role: str) -> tuple[list[str], re.Pattern[str]]:
  """The names of a template's slots, and the prompts that are made of it."""
  pieces = template(f'{role}_en')
  pattern = '(.*?)'.join(re.escape(piece) for piece in pieces[::2])
  names = [piece.strip('{}') for piece in pieces[1::2]]
  return names, re.compile(pattern, re.S)


def slots(prompt: str) -> tuple[str, dict[str, str]]:
  """Whose prompt it is, and what stands in the slots of its template."""
  for role in ROLES.split():
    names, pattern = _form(role)
    if found := pattern.match(prompt):
      return role, dict(zip(names, found.groups(), strict=True))
  raise AssertionError(f'nobody is asked: {prompt}')


def _judge(seen: dict[str, str], _: str) -> Any:
  reply = seen['reply'].removeprefix('> ')
  found = [f for f in flaws_in(reply) if f in seen['principles']]
  good = not found
  if LENGTH in seen['principles']:
    good = len(reply) > LONG
  verdict = 'Good' if good else 'Bad'
  return {'verdict': verdict, 'reason': f'it shows {found}'}


def _generator(seen: dict[str, str], prompt: str) -> Any:
  plans = named(seen['rules']) or ['']
  flaw = plans[int(chance(prompt) * len(plans))]
  return {'response': write(seen['brief'], flaw, prompt), 'flaw': f'({flaw})'}


def _reflector(seen: dict[str, str], _: str) -> Any:
  if 'Good' in seen['label']:
    return {'cause': 'length', 'principle': 'drop length'}
  flaws = flaws_in(seen['reply'])
  return {'cause': 'unnamed', 'principle': f'name {flaws}'}


def _rules(seen: dict[str, str]) -> list[str]:
  return re.findall('^- (.+)$', seen['rules'], re.M)


def _optimiser_judging(seen: dict[str, str], _: str) -> Any:
  rules = _rules(seen)
  if 'drop length' in seen['notes']:
    rules = [rule for rule in rules if rule != LENGTH]
  new = [f'Bad shows {f}.' for f in named(seen['notes'])]
  return {'rules': [*dict.fromkeys(rules + new)][:10]}


def _optimiser_construction(seen: dict[str, str], _: str) -> Any:
  caught = named(seen['notes'])
  rules = [r for r in _rules(seen) if not set(named(r)) & set(caught)]
  used = named(' '.join(rules)) + caught
  fresh = [flaw for flaw in FLAWS if flaw not in used]
  start = int(chance(seen['notes']) * len(fresh))
  return {'rules': rules + [f'Plant {f}.' for f in fresh[start : start + 1]]}


def answer(prompt: str) -> str:
  """What an agent with no faults answers."""
  role, seen = slots(prompt)
  return _dump(prompt, globals()[f'_{role}'](seen, prompt))


def _dump(prompt: str, answer: dict[str, Any]) -> str:
  """An answer as JSON, with the id that its prompt asks for."""
  return json.dumps({'id': re.findall('"id": "(.+?)"', prompt)[0], **answer})


def harm(prompt: str, share: float) -> str:
  """The same, but this share of the principles' rewritings does harm."""
  role, seen = slots(prompt)
  draw = chance('harm', prompt)
  if role != 'optimiser_judging' or draw >= share:
    return answer(prompt)
  rules = _rules(seen)
  deeds = [
    [*rules[:9], LENGTH],
    rules[: len(rules) // 2] or ['Bad is what is not Good.'],
    [f'Rule {n}.' for n in range(11)],
  ]
  return _dump(prompt, {'rules': deeds[int(3 * draw / share)]})


def malform(prompt: str, reply: str, share: float) -> str | None:
  """The reply, or for this share of prompts something that is none."""
  draw = chance('malformed', prompt)
  wrecks = [reply[: len(reply) // 2], 'Sure! Happy to help.', '[]', '{}', None]
  return reply if draw >= share else wrecks[int(5 * draw / share)]


class World:
  """Answers for all roles, and counts the prompts.

  Args:
    harmful: share of the rewritings of the principles that do harm.
    malformed: share of all replies.
    dies_at: the call at which the process dies.
  """

  def __init__(
    self, harmful: float = 0, malformed: float = 0, dies_at: int | None = None
  ):
    self.harmful, self.malformed, self.dies_at = harmful, malformed, dies_at
    self.calls = 0

  def ask(self, prompts: Sequence[str]) -> list[str | None]:
    replies = []
    for prompt in prompts:
      if self.calls == self.dies_at:
        raise KeyboardInterrupt
      self.calls += 1
      reply = harm(prompt, self.harmful)
      replies.append(malform(prompt, reply, self.malformed))
    return replies


def write_files(folder: Path, prompts: int = 80) -> dict[str, Path]:
  """Labelled replies, and strategies that know nearly nothing."""
  records = []
  for n in range(prompts):
    brief = f'Write a card, please, number {n:03}'
    flaw = list(FLAWS)[n % len(FLAWS)]
    for label, text in (1, write(brief)), (0, write(brief, flaw, 'bad')):
      records.append({'prompt': brief, 'response': text, 'label': label})
  lines = [json.dumps(record) + '\n' for record in records]
  files = {
    'labelled': ''.join(lines),
    'principles': 'Judge with care.\n\n1. Bad has a mistake of spelling.\n',
    'construction': 'Hide one flaw.\n\n1. Plant cliche.\n2. Plant slogan.\n',
  }
  for name, text in files.items():
    (folder / f'{name}.txt').write_text(text)
  return {name: folder / f'{name}.txt' for name in files}
