"""The scoring in words, which a policy reads while it trains.

Briefs of training rollouts end with a note on how replies are scored, so that
the policy need not find it out by trying.  (Source: MeRF, arXiv 2506.18485.)
Policy and reference read the note; scorers and evaluations read plain briefs.
"""

from rlcw.data import messages
from rlcw.data.messages import Message, Prompt

# Mixers that score replies by writing alone, or by rules alone.
_WRITING_ALONE, _RULES_ALONE = 'writing', 'constraint'
_FAILURES = {
  'en': (
    'a reply that is left unfinished counts as a failure',
    'a reply that breaks a rule or is left unfinished counts as a failure',
  ),
  'zh': ('没有写完的回复算作失败', '违反任何一条要求或没有写完的回复算作失败'),
}
_NOTES = {
  'en': (
    'Scoring: {}; among the others, the better written reply wins.',
    'Scoring: the better written reply wins.',
    'Scoring: {}; all others count alike.',
  ),
  'zh': (
    '评分方式：{}；其余回复中，写得更好的获胜。',
    '评分方式：写得更好的回复获胜。',
    '评分方式：{}；其余回复得分相同。',
  ),
}


def note(mixer: str, language: str, checked: bool = True) -> str:
  """Words the scoring of a run.

  Args:
    mixer: `mixing.name` of the run.
    language: of the brief; English where it is neither en nor zh.
    checked: the run has verifiers, so that a reply can break a rule.
  """
  language = language if language in _NOTES else 'en'
  both, writing, rules = _NOTES[language]
  form = {_WRITING_ALONE: writing, _RULES_ALONE: rules}.get(mixer, both)
  return form.format(_FAILURES[language][checked])


def with_note(prompt: Prompt, text: str) -> Prompt:
  """Returns a prompt whose last message ends with a note."""
  *earlier, last = messages.messages(prompt)
  noted = Message(last.role, f'{last.content}\n\n{text}')
  return messages.simplest([*earlier, noted])
