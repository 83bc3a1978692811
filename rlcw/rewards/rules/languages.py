"""Detection of a text's language, and of simplified or traditional Chinese.

Languages are detected by `langdetect`, because IFEval's verdicts use it.  It
samples at random; a seed makes it deterministic.  Scripts are distinguished by
OpenCC's conversion tables, the best maintained ones.
"""

import functools
import re
from collections.abc import Iterator
from typing import Any

from rlcw.rewards.rules import han

# Code, English name, Chinese name: IFEval's languages, and Chinese.
_TABLE = """
ar Arabic 阿拉伯语
bg Bulgarian 保加利亚语
bn Bengali 孟加拉语
de German 德语
en English 英文
es Spanish 西班牙语
fa Persian 波斯语
fi Finnish 芬兰语
fr French 法语
gu Gujarati 古吉拉特语
he Hebrew 希伯来语
hi Hindi 印地语
it Italian 意大利语
ja Japanese 日语
kn Kannada 卡纳达语
ko Korean 韩语
ml Malayalam 马拉雅拉姆语
mr Marathi 马拉地语
ne Nepali 尼泊尔语
pa Punjabi 旁遮普语
pl Polish 波兰语
pt Portuguese 葡萄牙语
ru Russian 俄语
sw Swahili 斯瓦希里语
ta Tamil 泰米尔语
te Telugu 泰卢固语
th Thai 泰语
uk Ukrainian 乌克兰语
ur Urdu 乌尔都语
vi Vietnamese 越南语
zh Chinese 中文
"""
NAMES = {
  code: names for code, *names in map(str.split, _TABLE.split('\n')[1:-1])
}

SCRIPTS = 'simplified', 'traditional'
# In China's list of standard characters, though OpenCC converts them.
_ALSO_SIMPLIFIED = '捱摺麴拚'
# OpenCC lets these stay, as they are rare characters of the one script too; but
# whoever writes them writes the other script's form of a common one.
_RARELY_TRADITIONAL = '万丰价党厂叶广愿挂极柜淀确种筑胜腊苹荐虫蚝蜡蝎适'
_RARELY_SIMPLIFIED = '於妳牠簷祕瞇砲痲徬毬鎗珮'
# OpenCC converts these, which Taiwan or Hong Kong write too (倒霉, 恒生, 佳肴).
_ALSO_TRADITIONAL = '霉恒虱肴'
# In these words a character of simplified text is of traditional text too.
_TRADITIONAL_WORD = re.compile('丰[采姿儀神韻]|叶[韻音]')
# 么 also occurs in traditional text (老么), but not in these words.
_SIMPLIFIED_ME = re.compile('[什甚怎那多要]么')

# Characters used for detection.  More change few verdicts, and take longer.
_MAX_CHARACTERS = 10_000


@functools.cache
def _factory() -> Any:
  # Imported at first use: few briefs need it, and its profiles load slowly.
  from langdetect import detector_factory

  factory = detector_factory.DetectorFactory()
  factory.seed = 0
  factory.load_profile(detector_factory.PROFILES_DIRECTORY)
  return factory


def detect(text: str) -> str | None:
  """Code of the text's language; `None` if it has no letters to detect it by.

  A text that fits many languages is `unknown`.
  """
  from langdetect import LangDetectException

  detector = _factory().create()
  detector.append(text[:_MAX_CHARACTERS])
  try:
    code = detector.detect()
  except LangDetectException:
    return None
  # langdetect separates zh-cn and zh-tw; scripts are checked by a rule of ours.
  return 'zh' if code.startswith('zh-') else code


def _always_converted(table: str) -> set[str]:
  """Characters that are not among their own variants, so never stay."""
  variants = han.variants(table).items()
  return {
    character for character, others in variants if character not in others
  }


@functools.cache
def _barred() -> dict[str, set[str]]:
  """Script -> the characters that texts in it cannot have.

  Characters of both scripts (后, 里, 台) are in neither set.  Those that are
  standard in Taiwan or Hong Kong (床, 群) are allowed in traditional text.
  """
  traditional = _always_converted('TSCharacters')
  forms = set[str]().union(*han.variants('TSCharacters').values())
  for table in ('TWVariants', 'HKVariants'):
    for character, regional in han.variants(table).items():
      # Some of them are simplified as well: 群 is the simplified form of 羣.
      if character in traditional:
        traditional |= {*regional} - forms
  # ST converts to OpenCC's standard of traditional Chinese.  Its sources are
  # simplified characters, to which TS converts others, and a few traditional
  # variants (麽, 縆), to which it converts none.
  simplified = _always_converted('STCharacters') & {
    others[0]
    for character, others in han.variants('TSCharacters').items()
    if others[0] != character
  }
  # OpenCC has its own standard of traditional Chinese; regional ones count too.
  for table in ('TWVariants', 'HKVariants'):
    simplified.difference_update(*han.variants(table).values())
  simplified |= {*_RARELY_TRADITIONAL}
  simplified.difference_update(_ALSO_TRADITIONAL)
  traditional |= {*_RARELY_SIMPLIFIED}
  both = simplified & traditional | {*_ALSO_SIMPLIFIED}
  return {'simplified': traditional - both, 'traditional': simplified - both}


def has_other_script(text: str, script: str) -> bool:
  """Checks for characters that a script, simplified or traditional, lacks."""
  return any(True for _ in other_script(text, script))


def other_script(text: str, script: str) -> Iterator[tuple[int, int]]:
  """Spans of what a script, simplified or traditional, lacks in a text."""
  if script == 'traditional':
    for match in _SIMPLIFIED_ME.finditer(text):
      yield match.span()
    # Of the same length, so that places stay.
    text = _TRADITIONAL_WORD.sub(lambda match: '　' * len(match[0]), text)
  barred = _barred()[script]
  for place, character in enumerate(text):
    if character in barred:
      yield place, place + 1
