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
  r'|(?:sure|certainly|of course|absolutely|okay|no problem)\b *[,.!]'
  r'|(?:好的|当然|没问题)(?:可以)?[，,。!！]'
)
_AFTER = re.compile(
  r'i hope (?:you (?:like|enjoy)|this (?:helps|poem|story|piece))'
  r'|(?:please )?let me know if you|feel free to (?:ask|edit|adjust|change)'
  r'|would you like me to|(?:note|explanation)\b[*_]*:'
  r'|希望[你您](?:会|能)?喜欢|希望(?:这[首篇段]|对[你您]有|能帮)'
  r'|如果?[你您]?(?:还?需要|想要?)(?:我|修改|调整)|请告诉我'
  r'|(?:注|说明|解释|注释)[:：]'
)
# Phrases that models of the day write where a writer would look for one.
CLICHES = (
  'a testament to|a tapestry of|rich tapestry|a symphony of|dance of light'
  '|whispers of the|little did (?:he|she|they|i|we) know'
  '|barely above a whisper|shivers? down (?:his|her|my|their) spine'
  '|in the realm of|nestled in the heart|hung heavy in the air'
  '|a beacon of (?:hope|light)|stood the test of time|only time (?:will|would)'
  '|岁月静好|时光荏苒|光阴似箭|不禁感慨|仿佛在诉说|交织成一[幅首]'
  '|一股暖流|五彩斑斓|在这个充满|绽放(?:出)?光芒|谱写.{0,6}篇章|诗和远方'
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
