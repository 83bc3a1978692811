"""What checks that a reply is the piece alone, and not in stock phrases."""

import re

_SELF = re.compile(
  r'\bas an? (?:ai|(?:large )?language model|artificial intelligence)\b'
  r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|(?:large )?language model)\b"
  r'|作为(?:一[个名款])?(?:ai|人工智能|(?:大型?)?语言模型)'
  r'|我(?:只)?是(?:一[个名款])?(?:ai|人工智能|(?:大型?)?语言模型)'
)
_BEFORE = re.compile(
  # These open an explanation where a colon ends the line: "Here is the sea".
  r"(?:(?:here(?:'s| is| are)|below is|this is)\b"
  r'|以下[是为]|下面[是为]|这[是首篇])'
  r'[^\n]*[:：][*_\s]*(?:\n|$)'
  # As adverbs these open a piece too: "Certainly, love, it rained".
  r'|(?:sure|certainly|of course|absolutely)\b *(?:[.!]|,(?=[^\n]*(?:'
  r"\bhere(?:'s| is| are)\b|\bbelow\b|\b(?:happy|glad) to\b"
  r'|\bi can (?:help|write)\b|:[*_ ]*(?:\n|$))))'
  r'|(?:okay|no problem)\b *[,.!]'
  # A speaker begins so: 好的，各位, and a letter: 当然，我记得.
  r'|好的[，,。!！](?!(?:尊敬的|亲爱的)?(?:各位|诸位|大家|主席|同学们))'
  r'|(?:当然可以|没问题)[，,。!！]|当然[。!！]'
  r'|当然[，,](?=[^\n]*(?:以下|下面|这[是里]|[:：][*_ ]*(?:\n|$)))'
)
_AFTER = re.compile(
  r'i hope (?:you (?:like|enjoy)|this (?:helps|poem|story|piece))'
  r'|(?:please )?let me know if you|feel free to (?:ask|edit|adjust|change)'
  r'|would you like me to|explanation\b[*_]*:'
  r'|希望[你您](?:会|能)?喜欢|希望(?:这[首篇段]|对[你您]有|能帮)'
  r'|如果?[你您]?(?:还?需要|想要?)(?:我|修改|调整)|请告诉我'
  r'|(?:说明|解释|注释)[:：]'
  # A note may be the piece's own; here it speaks of the piece.
  r'|note\b[*_]*:(?=[^\n]*\b(?:this|poems?|story|piece|lines?|words?|rhymes?'
  r'|metaphors?|symboli[sz]es?|fiction(?:al)?)\b)'
  r'|注[:：](?=[^\n]*(?:[本此这全]个?(?:[文诗篇段首]|作品|故事|内容)|通篇|文中'
  r'|纯属|虚构|创作|篇幅|风格|押韵|意象|符合|以上|如需|实际应用))'
)
# Phrases that models of the day write where a writer would look for one.
CLICHES = (
  'a testament to|a tapestry of|rich tapestry|a symphony of|dance of light'
  '|whispers of the|little did (?:he|she|they|i|we) know'
  '|barely above a whisper|shivers? down (?:his|her|my|their) spine'
  '|in the realm of|nestled in the heart|hung heavy in the air'
  '|a beacon of (?:hope|light)|stood the test of time|only time (?:will|would)'
  '|岁月静好|时光荏苒|光阴似箭|不禁感慨|仿佛在诉说|交织成一[幅首]'
  # Not of a peacock's feathers, nor of a hall full of smoke.
  '|一股暖流|五彩斑斓的(?:人生|未来|世界|梦|生活|青春|童年|画卷|记忆|视觉)'
  '|在这个充满[^，。\n]{1,16}的(?:[^，。\n]{0,2}世界|时代|社会|时刻|时光|日子'
  '|季节|节日|夜晚|清晨|早晨|黎明|城市|旅程)|绽放(?:出)?光芒|谱写.{0,6}篇章|诗和远方'
)


def _plain(reply: str) -> str:
  return reply.strip().casefold().replace('’', "'")


def names_no_self(reply: str) -> bool:
  """The reply does not speak of its writer as a model: as an AI, 作为一个AI."""
  return _SELF.search(_plain(reply)) is None


def is_piece_alone(reply: str) -> bool:
  """Neither its first line announces the piece nor its last explains it."""
  text = _plain(reply).strip('*_ ')
  last = text.rpartition('\n')[2].lstrip('*_(（ ')
  return _BEFORE.match(text) is None and _AFTER.match(last) is None


def has_no_cliche(reply: str) -> bool:
  """None of the stock phrases occurs, English or Chinese."""
  return re.search(CLICHES, _plain(reply)) is None
