"""Task `briefs`: random briefs, prompts with rules, from a file of themes."""

from collections import Counter
from pathlib import Path
from typing import Any

from rlcw import Config
from rlcw.data import datasets
from rlcw.rewards.rules import arguments, compose
from rlcw.runtime import claim, console, outputs


def check(config: Config) -> None:
  """Raises ValueError for a range of rules that is empty, or unknown ones."""
  if config.least_rules > config.most_rules:
    raise ValueError(
      f'least_rules={config.least_rules}; expected at most most_rules='
      f'{config.most_rules}'
    )
  compose.check_allowed(config.least_rules, config.get('rules', ()))


def run(config: Config, workdir: Path) -> dict[str, Any]:
  """Composes `count` briefs; the output is written whole or not at all.

  Returns:
    The summary.

  Raises:
    ValueError: a theme is invalid (the message names the file, the line and the
      problem), there is none, or too many rules are asked for.
  """
  records = datasets.read_records(config.input)
  # `write_briefs` reads themes too, but only here are their lines known
  for place, record in records:
    try:
      arguments.read_theme(record)
    except ValueError as error:
      raise ValueError(f'{place}: {error}') from None
  briefs, refused = compose.write_briefs(
    [record for _, record in records],
    config.count,
    config.seed,
    least=config.least_rules,
    most=config.most_rules,
    # Configs of earlier versions do not have the setting.
    allowed=config.get('rules', ()),
  )
  output = claim.output(config, workdir, 'briefs.jsonl')
  outputs.write(output, briefs)
  rules = Counter(
    rule for brief in briefs for rule in brief['instruction_id_list']
  )
  summary = {
    'themes': len(records),
    'briefs': len(briefs),
    'heldout': sum(brief['split'] == 'heldout' for brief in briefs),
    'refused_combinations': refused,
    'by_instruction': dict(sorted(rules.items())),
  }
  console.log(f'briefs: {len(briefs)} of {len(records)} themes; {output}')
  return summary
