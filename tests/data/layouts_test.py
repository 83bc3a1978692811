"""Every layout that people publish becomes ours, or one line says why not."""

import json
import pathlib
import re
from typing import Any

import pytest

from rlcw.data import datasets, layouts, messages, published
from rlcw.data.examples import load_examples
from rlcw.data.messages import Message
from rlcw.data.preferences import load_preferences
from rlcw.rewards.briefs import load_briefs
from rlcw.runtime import console

ASK, REPLY, WORSE = 'A toast.', 'To you!', 'Hm.'


def say(role: str, text: Any) -> dict[str, Any]:
  return {'role': role, 'content': text}


def share(role: str, text: str) -> dict[str, str]:
  return {'from': role, 'value': text}


USER, GOOD, BAD = (
  say('user', ASK),
  say('assistant', REPLY),
  say('assistant', WORSE),
)
SYSTEM = say('system', 'Rhyme.')
EARLIER = [say('user', 'Hi.'), say('assistant', 'Hello!')]
PAIR = {'prompt': ASK, 'chosen': REPLY, 'rejected': WORSE}
ONE = {'prompt': ASK, 'response': REPLY}
TURNS = [*EARLIER, USER]
SIDES = {
  'chosen': [say('assistant', REPLY)],
  'rejected': [say('assistant', WORSE)],
}
HH = '\n\nHuman: Hi.\n\nAssistant: Hello!\n\nHuman: A toast.\n\nAssistant: '

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
  'ours': (PAIR | {'id': 1}, PAIR | {'id': 1}),
  'nulls': (ONE | {'split': None, 'system': None}, ONE),
  'TRL explicit': (
    {'prompt': [USER], 'chosen': [GOOD], 'rejected': [BAD]},
    PAIR,
  ),
  'TRL implicit': ({'chosen': [USER, GOOD], 'rejected': [USER, BAD]}, PAIR),
  'implicit, turns': (
    {'chosen': [*TURNS, GOOD], 'rejected': [*TURNS, BAD]},
    PAIR | {'prompt': TURNS},
  ),
  'HH': (
    {'chosen': HH + REPLY, 'rejected': HH + WORSE},
    PAIR | {'prompt': TURNS},
  ),
  'UltraFeedback, binarized': (
    {
      'prompt': ASK,
      'prompt_id': 'x',
      'chosen': [USER, GOOD],
      'rejected': [USER, BAD],
      'messages': [USER, GOOD],
      'score_chosen': 8.0,
      'score_rejected': 2.0,
    },
    PAIR | {'prompt_id': 'x', 'score_chosen': 8.0, 'score_rejected': 2.0},
  ),
  'UltraFeedback': (
    {
      'instruction': ASK,
      'completions': [
        {'response': REPLY, 'overall_score': 8.0, 'model': 'x'},
        {'response': WORSE, 'overall_score': 2.0, 'model': 'y'},
      ],
    },
    {'prompt': ASK, 'responses': [REPLY, WORSE], 'scores': [8.0, 2.0]},
  ),
  'messages': ({'messages': [USER, GOOD]}, ONE),
  'messages, system': (
    {'messages': [SYSTEM, USER, GOOD]},
    {'prompt': [SYSTEM, USER], 'response': REPLY},
  ),
  'messages, turns': (
    {'messages': [*TURNS, GOOD]},
    {'prompt': TURNS, 'response': REPLY},
  ),
  'messages beside their prompt': (
    {'prompt': 'Hi.', 'messages': [*TURNS, GOOD]},
    {'prompt': TURNS, 'response': REPLY},
  ),
  'parts': (
    {'messages': [say('user', [{'type': 'text', 'text': ASK}]), GOOD]},
    ONE,
  ),
  'completion': ({'prompt': ASK, 'completion': REPLY}, ONE),
  'completion, messages': ({'prompt': [USER], 'completion': [GOOD]}, ONE),
  'KTO': (
    {'prompt': ASK, 'completion': REPLY, 'label': True},
    ONE | {'label': True},
  ),
  'LLaMA-Factory KTO': (
    {'instruction': ASK, 'output': REPLY, 'kto_tag': False},
    ONE | {'label': False},
  ),
  'alpaca': ({'instruction': ASK, 'input': '', 'output': REPLY}, ONE),
  'alpaca, input': (
    {'instruction': 'A toast', 'input': 'to Ines.', 'output': REPLY},
    {'prompt': 'A toast\nto Ines.', 'response': REPLY},
  ),
  'alpaca, all': (
    {
      'instruction': ASK,
      'output': REPLY,
      'system': 'Rhyme.',
      'history': [['Hi.', 'Hello!']],
    },
    {'prompt': [SYSTEM, *TURNS], 'response': REPLY},
  ),
  'alpaca, pair': (
    {'instruction': ASK, 'chosen': REPLY, 'rejected': WORSE},
    PAIR,
  ),
  'dolly': (
    {'instruction': 'A toast', 'context': 'to Ines.', 'response': REPLY},
    {'prompt': 'A toast\nto Ines.', 'response': REPLY},
  ),
  'sharegpt': (
    {'conversations': [share('human', ASK), share('gpt', REPLY)]},
    ONE,
  ),
  'sharegpt, pair': (
    {
      'conversations': [share('human', ASK)],
      'chosen': share('gpt', REPLY),
      'rejected': share('gpt', WORSE),
      'system': 'Rhyme.',
    },
    PAIR | {'prompt': [SYSTEM, USER]},
  ),
  'verl': (
    {'prompt': [USER], 'ability': 'x', 'extra_info': {'index': 1}},
    {'prompt': ASK, 'ability': 'x', 'extra_info': {'index': 1}},
  ),
  'query': ({'query': ASK, 'response': REPLY, 'label': 1}, ONE | {'label': 1}),
  'implicit, system and history beside': (
    {
      'system': 'Rhyme.',
      'history': [['Hi.', 'Hello!']],
      'chosen': [USER, GOOD],
      'rejected': [USER, BAD],
    },
    PAIR | {'prompt': [SYSTEM, *TURNS]},
  ),
  'UltraFeedback, system beside': (
    {
      'prompt': ASK,
      'system': 'Rhyme.',
      'chosen': [USER, GOOD],
      'rejected': [USER, BAD],
    },
    PAIR | {'prompt': [SYSTEM, USER]},
  ),
  'HH, system beside': (
    {'system': 'Rhyme.', 'chosen': HH + REPLY, 'rejected': HH + WORSE},
    PAIR | {'prompt': [SYSTEM, *TURNS]},
  ),
  'HH, prompt apart': (
    {'prompt': HH.rstrip(), 'chosen': REPLY, 'rejected': WORSE},
    PAIR | {'prompt': TURNS},
  ),
  'chosen alone': (
    {'prompt': ASK, 'chosen': [USER, GOOD], 'rejected': None},
    {'prompt': ASK, 'chosen': REPLY},
  ),
  'Orca': (
    {'system_prompt': 'Rhyme.', 'question': ASK, 'response': REPLY},
    ONE | {'prompt': [SYSTEM, USER]},
  ),
  'a system of two that is blank': (
    ONE | {'system': '', 'system_prompt': 'Rhyme.'},
    ONE | {'prompt': [SYSTEM, USER]},
  ),
  'alpaca, blank instruction': (
    {'instruction': '', 'input': ASK, 'output': REPLY},
    ONE,
  ),
  'weights': (
    {
      'messages': [
        USER | {'weight': 0.0},
        GOOD | {'weight': 1, 'reasoning_content': None},
      ]
    },
    ONE,
  ),
  'input alone': ({'input': ASK, 'output': REPLY}, ONE),
  'argilla, pair': (
    {'system': 'Rhyme.', 'input': ASK, 'chosen': REPLY, 'rejected': WORSE},
    PAIR | {'prompt': [SYSTEM, USER]},
  ),
  'a prompt made of other fields': (
    {
      'prompt': 'A toast.\nto Ines.',
      'instruction': ASK,
      'input': 'to Ines.',
      'output': REPLY,
    },
    ONE | {'prompt': 'A toast.\nto Ines.'},
  ),
  'system_message': (
    ONE | {'system_message': 'Rhyme.'},
    ONE | {'prompt': [SYSTEM, USER]},
  ),
  'no history': (
    {'instruction': ASK, 'output': REPLY, 'history': ''},
    ONE,
  ),
  'no tools': (
    {'messages': [USER, GOOD], 'tools': '[]'},
    ONE | {'tools': '[]'},
  ),
  'the same conversation twice': (
    {
      'messages': [USER, GOOD],
      'conversations': [share('human', ASK), share('gpt', REPLY)],
    },
    ONE,
  ),
  'label twice': (
    {'prompt': ASK, 'completion': REPLY, 'label': True, 'kto_tag': True},
    ONE | {'label': True},
  ),
  'system twice': (
    {'prompt': [SYSTEM, USER], 'system': 'Rhyme.', 'response': REPLY},
    {'prompt': [SYSTEM, USER], 'response': REPLY},
  ),
  'messages beside their reply': (
    {'messages': [USER, GOOD], 'response': REPLY},
    ONE,
  ),
  'question and answer': ({'question': ASK, 'answer': REPLY}, ONE),
  'an answer that is a number': (ONE | {'answer': 42}, ONE | {'answer': 42}),
  'Capybara': (
    {
      'conversation': [
        {'input': 'Hi.', 'output': 'Hello!'},
        {'input': ASK, 'output': REPLY},
      ]
    },
    {'prompt': TURNS, 'response': REPLY},
  ),
  'LitBench': (
    {'prompt': ASK, 'chosen_story': REPLY, 'rejected_story': WORSE},
    PAIR,
  ),
  'OpenAI, pair': (
    {
      'input': {'messages': [SYSTEM, USER], 'tools': []},
      'preferred_output': [GOOD],
      'non_preferred_output': [BAD],
    },
    PAIR | {'prompt': [SYSTEM, USER], 'tools': []},
  ),
  'HelpSteer2': (
    {
      'prompt': ASK,
      'response_1': REPLY,
      'response_2': WORSE,
      'preference_strength': -1,
    },
    PAIR,
  ),
  'HelpSteer3': (
    {
      'context': TURNS,
      'response1': WORSE,
      'response2': REPLY,
      'overall_preference': 3,
    },
    PAIR | {'prompt': TURNS},
  ),
  'ms-swift, messages': (
    {'messages': [*TURNS, GOOD], 'rejected_response': WORSE},
    PAIR | {'prompt': TURNS},
  ),
  'ms-swift, two conversations': (
    {'messages': [*TURNS, GOOD], 'rejected_messages': [*TURNS, BAD]},
    PAIR | {'prompt': TURNS},
  ),
  'ms-swift, query': (
    {'query': ASK, 'response': REPLY, 'rejected_response': WORSE},
    PAIR,
  ),
  'one side with the prompt': (
    {'prompt': ASK, 'chosen': [USER, GOOD], 'rejected': WORSE},
    PAIR,
  ),
  'alpaca, blank input': (
    {'instruction': ASK, 'input': ' ', 'output': REPLY},
    ONE,
  ),
  'PKU-SafeRLHF': (
    {
      'prompt': ASK,
      'response_0': WORSE,
      'response_1': REPLY,
      'better_response_id': 1,
    },
    PAIR,
  ),
  'SHP': (
    {'history': ASK, 'human_ref_A': REPLY, 'human_ref_B': WORSE, 'labels': 1},
    PAIR,
  ),
  'Arena': (
    {
      'conversation_a': [*TURNS, BAD],
      'conversation_b': [*TURNS, GOOD],
      'winner': 'model_b',
    },
    PAIR | {'prompt': TURNS},
  ),
  'Nectar': (
    {
      'prompt': '\n\nHuman: A toast.\n\nAssistant: ',
      'answers': [
        {'answer': WORSE, 'model': 'a', 'rank': 7.0},
        {'answer': REPLY, 'model': 'b', 'rank': 1.0},
      ],
    },
    {'prompt': ASK, 'responses': [WORSE, REPLY], 'scores': [-7.0, -1.0]},
  ),
  'UltraChat': (
    {'id': '0', 'data': ['Hi.', 'Hello!', ASK, REPLY]},
    {'id': '0', 'prompt': TURNS, 'response': REPLY},
  ),
  'data of another kind': (
    ONE | {'data': ['Ann', 'Ben']},
    ONE | {'data': ['Ann', 'Ben']},
  ),
  'blank system': ({'messages': [say('system', ' '), USER, GOOD]}, ONE),
}


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_layout_becomes_ours(layout: str) -> None:
  theirs, ours = LAYOUTS[layout]
  given = json.dumps(theirs)
  converted = layouts.convert(theirs)
  assert converted == ours
  assert json.dumps(theirs) == given  # the record is not changed
  assert layouts.convert(ours) == ours


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_layout_trains_a_policy_or_a_reward_model(
  layout: str, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'x.jsonl'
  file.write_text(json.dumps(LAYOUTS[layout][0] | {'split': 'train'}))
  ours = LAYOUTS[layout][1]
  prompt = layouts.prompt_of(ours)
  if 'response' in ours and ours.get('label') is not False:
    [example] = load_examples(file, split='train')
    assert (example.prompt, example.response) == (prompt, REPLY)
  if 'rejected' in ours or 'scores' in ours:
    [pair] = load_preferences(file, split='train')
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, REPLY, WORSE)
  if 'label' in ours:
    [scored] = load_preferences(file, split='train')
    assert scored.worth == (float(ours['label']),)


def test_a_prompt_keeps_its_messages() -> None:
  assert layouts.prompt_of({'prompt': [SYSTEM, USER]}) == (
    Message('system', 'Rhyme.'),
    Message('user', ASK),
  )


@pytest.mark.parametrize(
  ('record', 'message'),
  [
    (
      {'text': 'x', 'id': 1},
      r"no prompt in the fields \['id', 'text'\].*expec",
    ),
    ({'prompt': 5}, r'prompt=5; expected a text'),
    ({'prompt': []}, r'prompt=\[\]; expected a list of messages'),
    ({'prompt': ['x']}, r"prompt\[0\]='x'; expected a message"),
    ({'prompt': [GOOD]}, 'expected a system message'),
    ({'messages': 'x'}, r"messages='x'; expected a list"),
    ({'messages': [USER, SYSTEM, GOOD]}, 'at most at the start'),
    ({'messages': [say('tool', 'x')]}, r"messages\[0\] has the role 'tool'"),
    ({'messages': [say('user', 5)]}, r'messages\[0\]: content=5'),
    ({'messages': [say('user', [{'type': 'image'}])]}, 'parts of text'),
    (
      {'messages': [USER, GOOD | {'tool_calls': [{'id': 1}]}]},
      r'messages\[1\] has tool_calls',
    ),
    ({'messages': [USER, GOOD], 'tools': '[{}]'}, 'tools is not supported'),
    (ONE | {'thought': 'Hm …'}, 'thought is not supported'),
    (ONE | {'thinking_content': 'Hm …'}, 'thinking_content is not supported'),
    (
      {'chosen': [USER, GOOD], 'rejected': [USER, BAD], 'images': ['x']},
      'images is not supported',
    ),
    (
      {'messages': [USER, GOOD | {'weight': 0}, USER, GOOD]},
      r'messages\[1\] has weight=0',
    ),
    ({'messages': [USER, GOOD | {'train': False}]}, 'has train=False'),
    ({'messages': [USER, GOOD | {'weight': 0.5}]}, r'has weight=0\.5'),
    ({'messages': [USER, GOOD | {'loss': 'false'}]}, "has loss='false'"),
    ({'messages': [USER, GOOD | {'training': 0}]}, 'has training=0'),
    ({'messages': [USER | {'image': 'x'}, GOOD]}, 'has image'),
    (
      {'messages': [USER, GOOD], 'functions': [{'name': 'f'}]},
      'functions is not supported',
    ),
    (
      {'messages': [say('user', [{'type': 'image_url', 'text': ASK}]), GOOD]},
      'parts of text',
    ),
    (
      {
        'messages': [USER, GOOD],
        'conversations': [share('human', 'x'), share('gpt', REPLY)],
      },
      'messages and conversations differ',
    ),
    (
      {'prompt': ASK, 'completion': REPLY, 'label': 1, 'kto_tag': False},
      'label differs from kto_tag',
    ),
    (
      ONE | {'input': 'to Ines.'},
      'input is no part of prompt; expected one of them',
    ),
    (ONE | {'context': ['x']}, r"context\[0\]='x'; expected a message"),
    (ONE | {'question': 'Else?'}, 'question is no part of prompt'),
    ({'prompt': HH, 'input': 'x', 'output': 'y'}, 'input is no part of prompt'),
    (
      {'prompt': ASK, 'response_0': REPLY, 'response_1': WORSE},
      r"no response in the fields \['prompt', 'response_0', 'response_1'\]",
    ),
    (ONE | {'response': '\u200b\u2060'}, 'response is blank'),
    (ONE | {'prompt': ''}, 'a prompt is blank'),
    (ONE | {'prompt': ' \u200b\n'}, 'a prompt is blank'),
    ({'messages': [say('user', ' '), GOOD]}, 'a prompt is blank'),
    (
      {'messages': [SYSTEM, USER, GOOD, say('user', ''), GOOD]},
      'a prompt is blank',
    ),
    (
      {'messages': [USER, GOOD | {'reasoning_content': 'So …'}]},
      r'messages\[1\] has reasoning_content',
    ),
    (
      {'messages': [USER, say('assistant', ' '), USER, GOOD]},
      'an earlier reply is blank',
    ),
    # pandas writes lists of parquet without commas
    (PAIR | {'chosen': f'[{USER}\n {GOOD}]'}, 'list of messages that is JSON'),
    (PAIR | {'prompt': json.dumps([USER])}, 'list of messages that is JSON'),
    (ONE | {'system': 'Rhyme.', 'system_prompt': 'Joke.'}, 'system differs'),
    (
      {'instruction': ASK, 'context': ['x'], 'response': REPLY},
      r"context\[0\]='x'; expected a message",
    ),
    ({'messages': [USER, GOOD], 'prompt': 'Other.'}, 'no message of messages'),
    ({'conversations': [share('human', ASK)], 'system': 5}, 'system=5; expect'),
    (
      {'messages': [SYSTEM, USER, GOOD], 'system': 'Else.'},
      'system differs',
    ),
    ({'instruction': ASK, 'output': REPLY, 'history': [['a']]}, 'history='),
    ({'instruction': ASK, 'output': REPLY, 'history': [['a', 5]]}, 'history=5'),
    ({'instruction': ['x'], 'output': REPLY}, r"instruction=\['x'\]"),
    ({'messages': [USER, GOOD], 'response': 'Hm.'}, 'expected one of the two'),
    (
      {'prompt': ASK, 'chosen': [USER], 'rejected': [USER]},
      "the user's messag",
    ),
    (
      {'chosen': [USER, GOOD], 'rejected': [say('user', 'x'), BAD]},
      'different prompts',
    ),
    (
      {'prompt': 'Other.', 'chosen': [USER, GOOD], 'rejected': [USER, BAD]},
      'another prompt than prompt',
    ),
    # what two fields of one record say
    (
      {'prompt': [USER], 'messages': [SYSTEM, USER], 'response': REPLY},
      'prompt and messages differ',
    ),
    (
      {'prompt': [USER], 'conversations': [SYSTEM, USER], 'response': REPLY},
      'prompt and conversations differ',
    ),
    (
      {'prompt': ASK, 'messages': [SYSTEM, say('user', 'x')]} | SIDES,
      'prompt is no message of messages',
    ),
    (
      {'messages': [USER, GOOD], 'instruction': 'Always in verse.'},
      'instruction is in no message of messages',
    ),
    ({'messages': [USER, GOOD], 'context': 'x'}, 'context is in no message'),
    (ONE | {'completion': 'Else.'}, 'response and completion differ'),
    (PAIR | {'response': 'Else.'}, 'response differs from chosen'),
    (
      PAIR | {'score_chosen': 2, 'score_rejected': 8.0},
      'score_chosen=2 and score_rejected=8.0: .*better',
    ),
    ({'prompt': ASK, 'completion': [USER, GOOD]}, 'expected the reply alone'),
    ({'prompt': ASK, 'completions': [{'response': 'x'}]}, 'overall_score'),
    ({'prompt': ASK, 'completions': ['x']}, 'overall_score'),
  ],
)
def test_one_line_says_why_a_record_is_refused(
  record: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'x.jsonl'
  file.write_text('\n' + json.dumps(record))
  with pytest.raises(ValueError, match=rf'x\.jsonl:2: .*{message}') as raised:
    load_examples(file)
  assert '\n' not in str(raised.value)


def test_messages_beside_a_prompt_may_say_the_same(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'x.jsonl'
  long = [SYSTEM, USER, GOOD, say('user', 'More.')]
  for record, expected in (
    ({'prompt': [USER], 'messages': [USER], 'response': REPLY}, ASK),
    ({'prompt': ASK, 'messages': [USER, GOOD], 'question': ASK}, ASK),
    # UltraFeedback
    (
      {'prompt': ASK, 'messages': [USER, GOOD]}
      | {'chosen': [USER, GOOD], 'rejected': [USER, BAD]},
      ASK,
    ),
    # the sides without the conversation, which is in `messages`
    ({'prompt': 'More.', 'messages': long} | SIDES, long),
    ({'prompt': 'More.', 'messages': [*long, GOOD]} | SIDES, long),
    ({'prompt': long, 'messages': [*long, GOOD]} | SIDES, long),
  ):
    file.write_text(json.dumps(record))
    [example] = load_examples(file)
    assert example.response == REPLY
    said = messages.to_json(example.prompt)
    assert said == expected


@pytest.mark.parametrize(
  'reply',
  [
    '[{"role": "Hamlet", "actor": "Olivier"}]',
    "[{'role': 'Hamlet', 'actor': 'Olivier'}]",
    '[{"value": 3}]',
    '[{"role": "Hamlet", "content": "Words."}, {"role": "Exit"}]',
    '{"title": "x"}',
  ],
)
def test_a_reply_may_be_json(reply: str) -> None:
  record = {'prompt': ASK, 'response': reply}
  assert layouts.convert(record) == record


def test_two_scores_are_no_pair(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'x.jsonl'
  rows = [
    {'prompt': ASK, 'responses': ['a', 'b'], 'scores': [1, 0]},
    {'prompt': ASK, 'responses': ['c', 'd'], 'scores': [0.5, 0.7]},
  ]
  file.write_text('\n'.join(map(json.dumps, rows)))
  [merged] = load_preferences(file)
  assert merged.replies == ('a', 'b', 'c', 'd')
  assert merged.worth == (1, 0, 0.5, 0.7)


def test_replies_of_which_neither_is_preferred_are_no_pair() -> None:
  tie = {'response1': 'a', 'response2': 'b', 'overall_preference': 0}
  with pytest.raises(published.Unusable, match='neither'):
    layouts.convert({'prompt': ASK} | tie)
  with pytest.raises(ValueError, match="overall_preference='b'; expected a"):
    layouts.convert({'prompt': ASK} | tie | {'overall_preference': 'b'})
  battle = {'conversation_a': [USER, GOOD], 'conversation_b': [USER, BAD]}
  for winner in ('tie', 'tie (bothbad)', 'both_bad'):
    with pytest.raises(published.Unusable, match='neither'):
      layouts.convert(battle | {'winner': winner})
  with pytest.raises(ValueError, match="'model_a' or 'model_b'"):
    layouts.convert(battle | {'winner': 'c'})


def test_a_history_beside_a_prompt_is_not_lost() -> None:
  pair = {'human_ref_A': 'a', 'human_ref_B': 'b', 'labels': 0}
  with pytest.raises(ValueError, match="history='x'; expected a list"):
    layouts.convert({'prompt': ASK, 'history': 'x'} | pair)


def test_deep_nesting_is_refused_in_one_line(tmp_path: pathlib.Path) -> None:
  file = tmp_path / 'x.jsonl'
  for depth in (900, 5000):
    nested = '[' * depth + ']' * depth
    file.write_text(f'\n{{"prompt": "a", "x": {nested}}}')
    with pytest.raises(ValueError, match=r'x\.jsonl:2: '):
      datasets.read_records(file)


def documented() -> list[tuple[str, dict[str, Any]]]:
  """The examples in the table of layouts in docs/data.md, by layout."""
  page = pathlib.Path(__file__).parents[2] / 'docs' / 'data.md'
  rows = re.findall(
    r'^\| ([^|`]+) \| (`\{.*`) \|$', page.read_text('utf-8'), re.M
  )
  return [
    (layout, json.loads(example.strip().strip('`')))
    for layout, examples in rows
    for example in examples.split('<br>')
  ]


def test_the_documented_layouts_are_read(tmp_path: pathlib.Path) -> None:
  examples = documented()
  assert len(examples) == 31
  for number, (layout, record) in enumerate(examples):
    file = tmp_path / f'{number}.jsonl'
    file.write_text(json.dumps(record))
    [(_, ours)] = datasets.read_records(file)
    prompt = messages.messages(layouts.prompt_of(ours))
    assert prompt[-1] == (
      'user',
      'Greet\nInes' if 'Ines' in record.values() else 'Hi',
    )
    if layout.startswith(('pairs', 'HH')):
      [pair] = load_preferences(file)
      assert (pair.chosen, pair.rejected) == ('Ho', 'Hm')
    elif layout.startswith('replies'):
      load_preferences(file)
    elif 'chosen' not in ours and layout != 'verl':
      [example] = load_examples(file)
      assert example.response == 'Ho'
    else:
      [brief] = load_briefs(file)
      assert brief.request == layouts.prompt_of(ours)


def test_hh_s_irregular_records_are_joined_or_left_out(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'x.jsonl'
  twice = '\n\nHuman: a\n\nHuman: b\n\nAssistant: c\n\nAssistant: '
  records = [
    {'chosen': twice + 'd', 'rejected': twice + 'e'},
    {'chosen': '\n\nHuman: a\n\nAssistant: b', 'rejected': HH + 'c'},
    {'chosen': HH + 'b', 'rejected': HH},
  ]
  file.write_text('\n'.join(map(json.dumps, records)))
  console.take_notices()
  [pair] = load_preferences(file)
  assert (pair.prompt, pair.replies) == ('a\n\nb', ('c\n\nd', 'c\n\ne'))
  assert console.take_notices() == [
    f'2 of 3 records left out, the first at {file}:2: chosen and rejected '
    'answer different prompts'
  ]
  file.write_text(json.dumps(records[2]))
  with pytest.raises(ValueError, match=r':1: rejected ends before the reply'):
    load_preferences(file)


@pytest.mark.parametrize(
  'change',
  [
    str.strip,
    lambda text: text.lstrip('\n'),
    lambda text: text.replace('\n\n', '\n'),
    lambda text: text.replace('\n', '\r\n'),
  ],
)
def test_hh_may_have_lost_its_blank_lines(
  change: Any, tmp_path: pathlib.Path
) -> None:
  file = tmp_path / 'x.jsonl'
  spoken = [say('user', 'Hi.'), say('assistant', 'Hello!'), USER]
  for record in (
    {'prompt': change(HH), 'chosen': ' ' + REPLY, 'rejected': WORSE},
    {'chosen': change(HH + REPLY), 'rejected': change(HH + WORSE)},
  ):
    file.write_text(json.dumps(record))
    [pair] = load_preferences(file)
    assert messages.to_json(pair.prompt) == spoken
    assert pair.chosen.strip() == REPLY


def test_turns_of_hh_end_at_blank_lines_where_it_has_them(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'x.jsonl'
  quoted = 'A toast in these words:\nHuman: Hi.\nAssistant: Ho.'
  prompt = f'\n\nHuman: {quoted}\n\nAssistant:'
  for text in (prompt, prompt.strip(), prompt.replace('\n', '\r\n')):
    file.write_text(json.dumps({'prompt': text, 'response': REPLY}))
    [example] = load_examples(file)
    assert example.prompt.replace('\r\n', '\n') == quoted
  # a prompt without a cue for the reply
  file.write_text(
    json.dumps({'prompt': f'\n\nHuman: {ASK}', 'response': REPLY})
  )
  [example] = load_examples(file)
  assert example.prompt == ASK


def test_a_text_with_a_human_in_it_is_no_dialogue(
  tmp_path: pathlib.Path,
) -> None:
  file = tmp_path / 'x.jsonl'
  for text in ('Human: what a word.', 'The last human\n\nHuman: a play.'):
    file.write_text(json.dumps({'prompt': text, 'response': REPLY}))
    [example] = load_examples(file)
    assert example.prompt == text
