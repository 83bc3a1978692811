"""Briefs that tell their scoring, in training alone (`tell_scoring`).

The tokens of a step's briefs have the note of `rewards.motivation`, so policy,
reference and update read it.  Scores are of replies to the plain briefs
(`rewards.plain`).  In two turns the note ends the second.
"""

from rlcw import Config
from rlcw.models.chat import ChatFormat
from rlcw.rewards import motivation, revision
from rlcw.rewards.briefs import Brief


def tells(config: Config) -> bool:
  """True if briefs of training rollouts tell the scoring."""
  # Configs of earlier versions do not have the setting.
  return config.get('tell_scoring', False)


def note(brief: Brief, config: Config) -> str:
  """The note of a brief in training; '' if there is none."""
  if not tells(config):
    return ''
  checked = bool(config.verifiers)
  return motivation.note(config.mixing.name, brief.language, checked)


def encode(brief: Brief, chat: ChatFormat, config: Config) -> list[int]:
  """Token ids of a brief, or its first turn, as the policy reads it."""
  if revision.revises(config):
    return chat.encode_prompt(revision.first_turn(brief))
  prompt = brief.request
  if text := note(brief, config):
    prompt = motivation.with_note(prompt, text)
  return chat.encode_prompt(prompt)
