"""A brief with its best and its worst reply, to read while a run goes on.

Letters: P briefs, G replies to each.
"""

import re
from collections.abc import Sequence

import numpy as np

from rlcw.rewards.briefs import Brief
from rlcw.rewards.scoring import Scores
from rlcw.runtime import console
from rlcw.sampling.prompts import excerpt, visible

# Characters of a brief and of a rule that are shown; of a reply, and its lines.
_BRIEF, _RULE = 300, 120
_REPLY, _LINES = 800, 12


def describe(
  step: int,
  briefs: Sequence[Brief],
  scores: Scores,
  finished_PxG: np.ndarray,
  advantage_PxG: np.ndarray,
  relabelled: Sequence[Brief | None] = (),
) -> str:
  """Describes one brief of a step, with its best and its worst reply.

  It is the first one whose replies differ in their advantage, if there is one.
  All text from a brief or a reply is indented behind a bar or on one line, so
  that none can pass for a line of the log.

  Args:
    step: of the run.
    briefs: P of this process.
    scores: of their replies.
    finished_PxG: false for a reply that was cut off.
    advantage_PxG: of the replies.
    relabelled: briefs that groups learn from instead, if any do.

  Returns:
    The lines; blank if no reply is valid.
  """
  # As scored: the mixer may leave out more (`all_violating='skip'`).
  valid_PxG = scores.valid
  if not valid_PxG.any():
    return ''
  known = [a[v] for a, v in zip(advantage_PxG, valid_PxG, strict=True)]
  # Two where the advantages differ, one where there are any, else 0.
  p = int(np.argmax([min(np.unique(a).size, 2) for a in known]))
  # Where all advantages are equal, the writing score decides.
  order = np.lexsort((scores.writing[p], advantage_PxG[p]))
  ranked = [g for g in order if valid_PxG[p, g]]
  brief = briefs[p]
  lines = [
    f'  brief {excerpt(str(brief.id), 40)} of step {step}: '
    f'{excerpt(brief.prompt, _BRIEF)}'
  ]
  if relabelled and (new := relabelled[p]):
    lines.append(f'  learned as: {excerpt(new.text, _BRIEF)}')
  for name, g in (('best', ranked[-1]), ('worst', ranked[0])):
    faults = why(brief, scores.follow[p][g], bool(finished_PxG[p, g]))
    if not faults and scores.violated[p, g]:
      faults = ['breaks: a verifier of the config']
    numbers = (
      f'advantage {console.number(advantage_PxG[p, g], "+.2f")}, writing '
      f'{console.number(scores.writing[p, g], ".2f")}'
    )
    if scores.parts:
      numbers += f' ({list_parts(scores, p, g)})'
    lines.append(
      f'  {name}: {numbers}, {"; ".join(faults) or "keeps all rules"}'
    )
    if scores.met:
      lines += list_criteria(brief, scores.met[p][g])
    lines += [f'    | {line}' for line in _quote(scores.text[p][g])]
  return '\n'.join(lines)


def why(
  brief: Brief, verdicts: Sequence[bool | None], finished: bool
) -> list[str]:
  """Words what is wrong with a reply: the rules that it breaks, in plain text.

  Args:
    brief: with the rules.
    verdicts: one for each rule; None where a verdict is missing.
    finished: false if the reply was cut off.
  """
  broken, unknown = (
    [
      excerpt(rule, _RULE)
      for rule, verdict in zip(brief.rules, verdicts, strict=True)
      if verdict is wanted
    ]
    for wanted in (False, None)
  )
  parts = [f'breaks: {text}' for text in broken]
  parts += [f'no verdict: {text}' for text in unknown]
  return parts + ['cut off at max_new_tokens'] * (not finished)


def list_parts(scores: Scores, p: int, g: int) -> str:
  """Lists the parts of a reply's writing score, as in `judge 0.60`."""
  return ', '.join(
    f'{name} {console.number(part[p, g], ".2f")}'
    for name, part in scores.parts.items()
  )


def list_criteria(brief: Brief, met: Sequence[bool | None]) -> list[str]:
  """Lists the criteria of a brief's rubric, a line each, with their verdicts.

  Args:
    brief: with the rubric.
    met: a verdict for each criterion; None where it is missing.
  """
  words = {True: 'meets', False: 'misses', None: 'no verdict on'}
  return [
    f'    {words[verdict]} ({each.weight:+g}) {excerpt(each.criterion, _RULE)}'
    for each, verdict in zip(brief.rubric, met, strict=True)
  ]


def _quote(text: str) -> list[str]:
  """Lines of an untrusted reply that are not blank, and a note if it is cut."""
  whole = re.sub(r'\n\s*\n', '\n', visible(text).strip())
  shown = '\n'.join(whole[:_REPLY].split('\n')[:_LINES])
  hidden = len(whole) - len(shown)
  note = [f'… {hidden:,} more characters'] if hidden else []
  return (shown.split('\n') if shown else ['(blank)']) + note
