"""Habits of language models: talk around a piece, and stock phrases.

All patterns apply to folded text: lower case, narrow commas and colons, and
simplified characters.  Those of phrases apply to it without emphasis.
"""

import re

import regex

from rlcw.rewards.rules.text import fold, unmarked

# Phrases by which a reply calls its writer a model.
SELF = regex.compile(
  r'(?:\bas (?:an?|your)|\b(?:i\'m|i am)(?: just| only)? an?'
  r'|\bwritten by an?)'
  r' "?(?:ai|(?:large )?language model|artificial intelligence)\b'
  # Not somebody who studies it.
  r'(?!"? (?:researcher|engineer|expert|scientist|student|developer|artist'
  r'|ethic|company|lab|teacher|professor))'
  r'|\b(?:i\'m|i am) chatgpt\b'
  # Not a student of it, nor a child of its age.
  r'|(?:作为|身为|我(?:只)?是)(?:[你您]的)?(?:一[个名款])? ?["「]?'
  r'(?:(?:ai|人工智能)'
  r'(?!["」]? ?(?:专业|专家|时代|课|领域|行业|公司|研究|工程|学|从业))'
  r'|(?:大型?)?语言模型|智能助手)'
)
# Openings that announce a piece instead of beginning it.
_BEFORE = regex.compile(
  # These announce it only if a colon ends the line: a poem may begin "Here is
  # the sea".
  r"(?:(?:here(?:'s| is| are| you go| you are)|below is|this is)\b"
  r'|以下[是为]|下面[是为]|这[是首篇]|(?:作品|诗歌?|故事|文章|内容|回复)如下)'
  r'[^\n]*[:：][*_\s]*(?:\n|$)'
  # Before a comma these may begin a piece ("Certainly, love, it rained"), so
  # the rest of the line must announce one.
  r'|(?:sure|certainly|of course|absolutely)\b *(?:[.!]|,(?=[^\n]*(?:'
  r"\bhere(?:'s| is| are)\b|\bbelow\b|\b(?:happy|glad) to\b"
  r'|\bi can (?:help|write)\b|:[*_ ]*(?:\n|$))))'
  r'|(?:okay|no problem)\b *[,.!]'
  # A speech may begin 好的，各位, and a letter 好的，妈 or 当然，我记得.
  r'|(?:好的|没问题)[，,。!！](?!(?:尊敬的|亲爱的)?(?:各位|诸位|大家|主席|同学们'
  r'|[爸妈哥姐弟妹]{1,2}[，,!！]|爷爷|奶奶|外公|外婆|姥姥|姥爷|老师|兄弟|朋友|宝贝))'
  r'|当然(?:可以)?[。!！] *(?:\n|$)|当然可以[，,。!！]'
  r'|当然[，,。!！](?=[^\n]*(?:以下|下面|这[是里]|[:：][*_ ]*(?:\n|$)))'
  r'|(?:祝福语?|祝词|贺词|正文|文案)[:：][*_ ]*(?:\n|$)'
  r'|我?(?:已经?)?(?:为|帮|给|替)[你您](?:写|准备|创作|撰写|拟)'
  r'[^\n]*[:：][*_ ]*(?:\n|$)'
)
# Last lines that explain the piece or offer further help.
_AFTER = regex.compile(
  r'i hope (?:you (?:like|enjoy)\b(?! the (?:party|trip|day|meal|holiday))'
  r'|this (?:helps|poem|story|piece))'
  # A guest may be asked whether he can come.
  r'|(?:please )?let me know if you\b(?! (?:can|could|will|are)\b)'
  r'|feel free to (?:ask|edit|adjust|change)|would you like me to'
  r'|explanation\b[*_]*:'
  # A gift may be hoped to please.
  r'|希望[你您](?:会|能)?喜欢(?:这[首篇段份个](?:诗|文|作品|故事|祝福|内容)|[!。~]*$)'
  r'|希望(?:这[首篇段]|对[你您]有|能帮)'
  # In a letter 如果你需要我，我一直都在, and 请告诉我，花开了没有 are its own.
  r'|如需(?:要)?(?:修改|调整|更改|润色)'
  r'|如果?[你您]?(?:还?(?:有|需要)|想要?)(?:我)?(?:再|继续|(?:为|帮|给)[你您])?'
  r'(?:进一步|其他|更多|任何)?(?:的)?(?:修改|调整|改|润色|换|需求|需要|要求|版本|风格)'
  r'|(?:请|随时|可以)*告诉我(?=[^\n]*(?:修改|调整|要求|需求|风格|细节|更多|版本))'
  r'|(?:说明|解释|注释)[:：]|(?:全文|字数|共)[:：]?[约共]?\d+ ?个?字'
  # A note may belong to the piece; these mention the piece itself.
  r'|note\b[*_]*:(?=[^\n]*\b(?:this|poems?|story|piece|lines?|words?|rhymes?'
  r'|metaphors?|symboli[sz]es?|fiction(?:al)?)\b)'
  r'|注[:：](?=[^\n]*(?:[本此这全]个?(?:[文诗篇段首]|作品|故事|内容)|通篇|文中'
  r'|纯属|虚构|创作|篇幅|风格|押韵|意象|符合|以上|如需|实际应用))'
)
# Stock phrases of current language models.
CLICHES = (
  'a testament to|a tapestry of|rich tapestry|a symphony of|dance of light'
  '|whispers of the|little did (?:he|she|they|i|we) know'
  '|barely above a whisper|shivers? down (?:his|her|my|their) spine'
  '|in the realm of|nestled in the heart|hung heavy in the air'
  '|a beacon of (?:hope|light)|stood the test of time|only time (?:will|would)'
  '|岁月静好|时光荏苒|光阴似箭|不禁感慨|仿佛在诉说|交织成一[幅首]'
  # Only before these nouns: 五彩斑斓 may describe a peacock's feathers, and
  # 在这个充满 a hall full of smoke.
  '|一股暖流|五彩斑斓的(?:人生|未来|世界|梦|生活|青春|童年|画卷|记忆|视觉)'
  '|在这个充满[^,。\n]{1,16}的(?:[^,。\n]{0,2}世界|时代|社会|时刻|时光|日子'
  '|季节|节日|夜晚|清晨|早晨|黎明|城市|旅程)|绽放(?:出)?光芒|谱写.{0,6}篇章|诗和远方'
)


def names_no_self(reply: str) -> bool:
  """The reply does not call its writer a model ("as an AI", 作为一个AI)."""
  return SELF.search(unmarked(fold(reply))) is None


# Models often put such lines in bold, headings, quotations or brackets, and end
# them with an emoji.
_LEADING = regex.compile(r'\A[*_#>\-=\s]+')
# Searched from the end, as long rows of marks inside a line would take long.
_TRAILING = regex.compile(r'(?r)[*_\-=\s\p{Emoji_Presentation}\ufe0f]+\Z')
_BRACKETS = re.compile(r'^(?:"(.*)"|\((.*)\)|\[(.*)\]|【(.*)】)$')


def _undressed(line: str) -> str:
  """Removes marks and brackets around a folded line."""

  def stripped(text: str) -> str:
    return _TRAILING.sub('', _LEADING.sub('', text))

  line = stripped(line)
  inner = _BRACKETS.match(line)
  return stripped(inner[inner.lastindex or 0]) if inner else line


def is_piece_alone(reply: str) -> bool:
  """The first line does not announce the piece, and the last not explain it."""
  lines = [*filter(None, map(_undressed, fold(reply).split('\n')))]
  if not lines:
    return True
  return not (_BEFORE.match(lines[0]) or _AFTER.match(lines[-1]))


def has_no_cliche(reply: str) -> bool:
  """None of the stock phrases occurs, in English or Chinese."""
  return regex.search(CLICHES, unmarked(fold(reply))) is None
