"""What tells arms apart in every picture."""

from configs import experiment
from rlcw.evaluation import plots
from rlcw.tasks.compare import page


def test_a_family_has_one_colour_and_its_members_are_told_apart() -> None:
  found = page.looks(['base', 'rlmr_rank', 'rlmr', 'linear_1', 'mine'])
  colour, marker, line = zip(*found.values(), strict=True)
  assert found['rlmr'][0] == found['rlmr_rank'][0] == plots.TRAINED
  assert found['rlmr'][1:] != found['rlmr_rank'][1:]
  assert found['rlmr'][2] == '-'  # the arm itself, not a variant of it
  assert len({*colour}) == 4  # base, an unknown arm and two families
  assert len({*marker}) == 5  # for readers of grey
  assert len({*zip(colour, marker, line, strict=True)}) == 5


def test_every_arm_of_the_experiment_has_a_line_of_its_own() -> None:
  found = page.looks([*experiment.VARIANTS])
  lines = {(colour, line) for colour, _, line in found.values()}
  assert len(lines) == len(experiment.VARIANTS)


def test_arms_of_no_family_are_told_apart() -> None:
  names = [f'arm {i}' for i in range(12)]
  found = page.looks(['base', *names])
  assert 'base' not in {a for a in names if found[a][0] == found['base'][0]}
  assert len({*found.values()}) == 13
  assert len({found[name][0] for name in names}) == 6
