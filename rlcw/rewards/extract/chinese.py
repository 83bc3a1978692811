"""Parts of Chinese wordings, and tests of the text around a match.

The masked text has narrow commas and colons; the full stop is 。.
"""

import re
from collections.abc import Callable

from rlcw.rewards.extract import amounts, english
from rlcw.rewards.extract.facts import (
  Build,
  Found,
  Pattern,
)

_PARTS = english.PARTS | {
  'AMOUNT': amounts.AMOUNT_ZH,
  'AFTER': amounts.AFTER_ZH,
  'NUMBER': amounts.NUMBER_ZH,
  'NOT': (
    '(?:(?:请|切)?勿|不要|不得|不能|不可以?|不许|不准|不应|不该|不允许|不必|禁止'
    '|严禁|避免|避开|杜绝|禁用|别|不|无)(?:再|有|使用|用|出现|含有?|包含|提及|提到'
    '|带|写|加|说|任何|到)*'
  ),
  'LIST': '<Q>(?:(?:、|,|和|与|及|以及|或者?|/|或是| )*<Q>)*',
  'WORD': (
    '(?:以下|下列|如下|这些|这|那|两|三|四|五|几|个|关键|的|词语?|字眼|单词|短语'
    '|词汇|一词|内容|:|到|有| )*'
  ),
}
NEAR = '[^。\n]'


def compiled(pattern: str) -> re.Pattern[str]:
  """Returns a pattern with its parts filled in; see `english.compiled`."""
  return english.compiled(pattern, _PARTS)


# Before what somebody else writes, or the name of something.
_OTHERS = re.compile(
  '(?:(?<!请)(?:他|她|他们|她们|人们|有人)[^,。\n]{0,8}|写了|说了|写过|认识|背下'
  '|学会|读了|收到[^,。\n]{0,10}|上写着|一天|每天|缩短|再加|已经?(?:写了|有)'
  '|(?:关于|名为|题为|叫做?)[^,。\n]{0,3})$'
)
# Before what is asked of parts of the reply.
_OF_PARTS = re.compile(
  '(?:每|各|任何)(?:(?!全文|全篇|全诗|总|整)[^。\n])*$'
  '|(?:最后|结尾|末尾|文末|开头|开篇|首先|其次|然后|接着)'
  '[,]?(?:请|再|可以?|要)*[用以]$'
  '|(?:标题|题目|开头|结尾|首句|末句|句子|旁白|摘要|关键词|横批|书名|落款|名字|寓意)'
  '[^,。\n]{0,6}$'
  '|(?:标题|题目|句子|段落|名字)[^,。\n]{0,4}(?:短|简短|简洁|精炼|简练)[^,。\n]{0,2},$'
  '|起[^,。\n]{0,4}(?:标题|题目|名字?),$'
  '|(?:结尾|最后)点明[^,。\n]{0,4},$'
  '|(?:^|[,:。;\n])请?先[^,。;\n]{0,6}$|(?:加粗|标红|标出|高亮|划出|圈出)$'
  '|(?:第[一二三四五六七八九十\\d]+|首|末|最后一)(?:[段节句行章]|部分)'
  '[^,。\n]{0,4}$'
  '|(?:第|最后|这|那|上|下|前|后|中间)[^,。\n]{0,1}$'
)


_NEGATIVE = compiled(
  '(?:<NOT>|(?:不要|不得|不能|避免|请勿|禁止)[^,。;\n]{0,16})$'
)


def ours(found: Found) -> bool:
  """Returns whether a match is about the reply, not about its content."""
  return not _OTHERS.search(found.before)


# Before the length of each of several: 写10个20字以内的标题.
_SEVERAL = re.compile(
  rf'(?!一[^十百千万]|1\D){amounts.NUMBER_ZH}(?:个|条|则|首|篇|份|副|组|种|版|幅)$'
)


# After the length of a first part: 用三个字形容他,再讲他的故事.
_GOES_ON = re.compile(
  '[^,。;\n]{0,8},(?:再|然后|接着|之后)|来?(?:做|作|作为|当)(?:开头|开场|结尾|收尾)'
)


def whole(found: Found) -> bool:
  """Returns whether a match is about the whole reply, not parts of it."""
  # 几百字 is no number.
  vague = re.search('[几数上好]$', found.before) and re.match(
    '[十百千万]', found.masked('amount')
  )
  several = _SEVERAL.search(found.before) and found.after.startswith('的')
  given = re.search('(?:这|那|原)(?:首|段|篇|封)[^,。写\n]{0,4}$', found.before)
  first = found.before.endswith('用') and _GOES_ON.match(found.after)
  other = vague or several or given or first
  return ours(found) and not (other or _OF_PARTS.search(found.before))


def pattern(
  text: str,
  build: Build,
  accepts: Callable[[Found], bool] = ours,
  reads_negation: bool = False,
) -> Pattern:
  """Returns a pattern of a Chinese wording; see `Pattern`."""
  reads_negation |= '<NOT>' in text
  return Pattern(compiled(text), build, accepts, reads_negation)


def positive(found: Found) -> bool:
  """Returns whether nothing before a match negates it."""
  return ours(found) and not _NEGATIVE.search(found.before)
