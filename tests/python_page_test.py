"""The code of docs/python.md as it stands, and TRL's call of its reward."""

import pathlib
import re
from typing import Any

import pytest
from server import prompt_of, serving
from stub_judges import verdict

from rlcw import api

PAGE = pathlib.Path(__file__).resolve().parents[1] / 'docs' / 'python.md'
BLOCKS = re.findall(
  r'^```python\n(.*?)^```$', PAGE.read_text('utf-8'), re.M | re.S
)
REWARD, TRAINER = BLOCKS[-2:]
BRIEFS = [
  {
    'prompt': 'A toast.',
    'instruction_id_list': ['length:words', 'punctuation:no_comma'],
    'kwargs': [{'at_most': 3}, {}],
  },
  {
    'prompt': 'A song.',
    'instruction_id_list': ['punctuation:no_comma'],
    'kwargs': [{}],
  },
]


def test_the_page_runs_from_top_to_bottom(in_library: pathlib.Path) -> None:
  printed: list[tuple[Any, ...]] = []
  names: dict[str, Any] = {'print': lambda *given: printed.append(given)}

  def good(request: Any, n: int) -> str:
    return verdict(prompt_of(request), 'Good')

  with serving(good) as server:
    for block in BLOCKS[:-1]:
      exec(block.replace('http://127.0.0.1:8000/v1', server.url), names)
  assert len(names['replies']) == len(names['scores']) == 4
  assert [len(group) for group in names['groups']] == [4, 4]
  assert names['best'] in names['replies']
  assert all(0 < each.p_good < 1 for each in names['found'])
  (short, _), (plain, _), *opinions = printed
  assert short and not plain  # few words, and a comma
  assert opinions == [(1.0, 'It is so.')]


@pytest.fixture(scope='module')
def reward() -> Any:
  names: dict[str, Any] = {'rlcw': api}
  exec(REWARD, names)
  return names['keeps_rules']


@pytest.mark.parametrize('messages', [False, True])
def test_the_reward_is_called_as_trl_does(reward: Any, messages: bool) -> None:
  """`GRPOTrainer._calculate_rewards` of TRL 1.16."""
  texts = ['To rain', 'To old rain, to the sea', 'Ah, rain', 'To rain']
  completions: list[Any] = [
    [{'role': 'assistant', 'content': text}] if messages else text
    for text in texts
  ]
  columns = {
    # a table has all fields in every row, null where they are not used
    'instruction_id_list': [
      *[BRIEFS[0]['instruction_id_list']] * 2,
      BRIEFS[1]['instruction_id_list'],
      [],
    ],
    'kwargs': [
      *[[{'at_most': 3}, {'at_most': None}]] * 2,
      [{'at_most': None}],
      [],
    ],
  }
  found = reward(
    prompts=['A toast.'] * 2 + ['A song.'] * 2,
    completions=completions,
    completion_ids=[[1]] * 4,
    trainer_state=object(),
    log_extra=print,
    log_metric=print,
    **columns,
  )
  assert found == [1.0, 0.0, 0.0, None]


@pytest.mark.slow
@pytest.mark.parametrize('messages', [False, True])
def test_trl_trains_with_the_reward(
  reward: Any,
  messages: bool,
  in_library: pathlib.Path,
  tmp_path: pathlib.Path,
) -> None:
  trl: Any = pytest.importorskip('trl')
  datasets: Any = pytest.importorskip('datasets')
  rows = [dict(brief) for brief in BRIEFS]
  for row in rows if messages else ():
    row['prompt'] = [{'role': 'user', 'content': row['prompt']}]
  arguments = trl.GRPOConfig(
    output_dir=str(tmp_path),
    max_steps=2,
    per_device_train_batch_size=4,
    num_generations=2,
    max_completion_length=6,
    logging_steps=1,
    report_to='none',
    save_strategy='no',
    use_cpu=True,
    bf16=False,
  )
  briefs = datasets.Dataset.from_list(rows)
  line = TRAINER.replace('briefs)', 'briefs, args=arguments)')
  names: dict[str, Any] = {
    'keeps_rules': reward,
    'briefs': briefs,
    'arguments': arguments,
  }
  exec(line, names)
  names['trainer'].train()
  logged = [
    row['rewards/keeps_rules/mean']
    for row in names['trainer'].state.log_history
    if 'rewards/keeps_rules/mean' in row
  ]
  assert len(logged) == 2 and all(0 <= float(each) <= 1 for each in logged)
