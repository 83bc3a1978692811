"""Chinese wordings of lengths, words, marks, beginnings and ends."""

import re

from rlcw.rewards.extract import amounts, clauses, english
from rlcw.rewards.extract.chinese import (
  NEAR,
  compiled,
  ours,
  pattern,
  positive,
  whole,
)
from rlcw.rewards.extract.facts import (
  Build,
  Fact,
  Found,
  both_bounds,
  fixed,
  related,
)

# --- Lengths ----------------------------------------------------------------

# Of a text of such a length, or of some of a text: 少于三句不算, 一句话是问句.
_CONSEQUENCE = re.compile(
  '[^。\n]{0,6}(?:扣分|不收|不及格|不合格|没关系|也行|也可以)'
  '|(?:的|就|则|会|都|均|一律|视为|算|显得)*'
  '(?:不算|不通过|不接受|作废|无效|重写|太短|太长|太少|太多)'
)
_SUBJECT = re.compile('(?:必须|须|要|应当?|得)?(?:是|押韵|为问)')
_SECOND = '(?P<more>,?(?:但|且|并且?|同时)*<AMOUNT>(?=[,。;)\n]|$))?'

_WITH_MARKS = re.compile(
  '[,(]*(?:(?<!不)含标点|包含标点|包括标点|标点计入|标点也算|连标点|算上标点'
  '|计标点)'
)


def _characters(found: Found) -> list[Fact]:
  """Han characters, with the punctuation if the text says so."""
  amount = found.amount()
  # 三个字一句
  if re.match('一[句行段]', found.after) or _CONSEQUENCE.match(found.after):
    return []
  if amount.bare:
    # “春天”二字 are the characters of that word.
    if (amount.low or 0) < 10 and re.search('"[这那 ]*$', found.before):
      return []
    # 一字 begins idioms, such as 一字不差.
    if (amount.low or 0) < 2:
      return []
    amount = amounts.about(amount.low or 0)
  marks = _WITH_MARKS.match(found.after) or found.has('symbol')
  name = 'length:characters' if marks else 'length:words'
  return both_bounds(name, amount, found)


# Before a number alone that is a length: 写一段祝福 counts nothing.
_FRAME = re.compile(
  '(?:^|[,:。;(\n]|写|共|用|分成?|分为|作|为|有|全文|全诗|全篇|以|出|成|来|要求)'
  '[ ]*$'
)
_FRAME_OF_ONE = re.compile('(?:用|以|只有?|仅|共)$')


# In verse 句 is a clause, not a sentence.
_VERSE = re.compile('诗|联|打油|顺口溜|童谣|儿歌|歌词|快板|绝句|律诗')


def _length(name: str) -> Build:
  def build(found: Found) -> list[Fact]:
    amount = found.amount()
    if _CONSEQUENCE.match(found.after):
      return []
    if _SUBJECT.match(found.after) and not _FRAME.search(found.before):
      return []
    plain = re.search('句话|个句子', found.whole)
    if name == 'length:sentences' and not plain and _VERSE.search(found.prompt):
      return []
    frame = _FRAME if (amount.low or 0) > 1 else _FRAME_OF_ONE
    if amount.bare and not frame.search(found.before):
      return []
    return both_bounds(name, amount, found)

  return build


# --- Words ------------------------------------------------------------------


def _words(found: Found) -> list[str]:
  return [word.strip() for word in found.quotes('list') if word.strip()]


# Of the words of a list some will do: 任选两个, “海”“天”之一.
_SOME_OF = (
  '(?:任意|任选|任何|之一|其中[一二两三几]|[一二两三几]个(?:即可|就行))'
)
_AFTER = re.compile(rf'[^,:;。\n]{{0,6}}?{_SOME_OF}')
_BEFORE = re.compile(rf'{_SOME_OF}[^,;。\n]{{0,6}}$')


# What may follow words that are to be used.  Others are examples
# (“沸腾”等词汇), a manner (“如何看待”这样的问题), a name (“破晓”战队).
_ENDED = re.compile(
  r'$|\W|[这一二两三四五六几些]*个?(?:字|词|关键|单词|短语|成语|意象|元素)'
  r'|[的且并和与及来作写造在进于各都也不]'
)
_MANNER = re.compile(r'(?:使用|运用|用)[^到上].*的$', re.DOTALL)
# Before the verb: 他总是会用“我”, 少用“的”; after it: 文件提到的“工程”.
_NARRATED = re.compile(
  '(?:总是|经常|常常|曾|会|已经?|(?<!不)可以?|(?<![至最不])少|慎)$'
)
_OF_OTHERS = re.compile('(?:提到|提及|使用|运用|出现|包含|包括|含有)的 ?$')


def _include(found: Found) -> list[Fact]:
  if '或' in found.masked('list') or _THERE.search(found.before):
    return []
  if any(
    (
      _BEFORE.search(found.before),
      re.search(_SOME_OF, found.whole),
      _AFTER.match(found.after),
      _NARRATED.search(found.before),
      _OF_OTHERS.search(found.whole.partition(found.masked('list'))[0]),
      not _ENDED.match(found.after),
      _MANNER.match(found.whole + found.after[:1]),
    )
  ):
    return []
  return [Fact('keywords:existence', {'keywords': _words(found)})]


# After words that are avoided in a place, or that are an exception.
_NOT_AVOIDED = re.compile(
  '(?:这|那|的|字|词|一|句|话)*(?:以外|之外|视角|口吻|语气|来?(?:作为?)?'
  '(?:开头|开始|开篇|起头|结尾|结束|收尾))'
)
_IN_PART = re.compile(
  '(?:标题|题目|第.{1,2}[段节]|主歌|副歌|对话|台词|主人公|主角|开头|结尾|时候?)'
  '[^。;\n]{0,8}$'
)

# Just before words that are used there: 在标题里使用.
_THERE = re.compile(
  '(?:在(?:标题|题目|第.{1,2}[段节]|主歌|副歌|首句|末句|开头|结尾)(?:里|中|处)?'
  '|(?:标题|题目|主歌|副歌|首句|末句)(?:里|中|处))(?:请|要|须|必须|应)*$'
)


# After words that are avoided only as often: “爱”字超过三次.
_TOO_OFTEN = compiled(
  '(?:这|那|几|个|字|的|一|词语?)*(?:出现|使用)*'
  '(?:<AMOUNT>(?:次|遍)|太|过[多于度]|频繁|连续|重复)'
)


def _avoid(found: Found) -> list[Fact]:
  if _TOO_OFTEN.match(found.after):
    return []
  head = found.before + found.whole.partition(found.masked('list'))[0]
  if _NOT_AVOIDED.match(found.after) or _IN_PART.search(head):
    return []
  return [Fact('keywords:forbidden_words', {'forbidden_words': _words(found)})]


def _times(found: Found) -> list[Fact]:
  if clauses.negates(found.before):
    return []
  amount = found.amount()
  if found.has('bound'):
    text = f'{found.masked("bound")}{found.masked("amount")}'
    amount = amounts.read(f'{text} {found.masked("post")}')
  if found.has('letter'):
    return related(
      'keywords:letter_frequency',
      {'letter': found.quote('list')},
      'let_frequency',
      'let_relation',
      amount,
    )
  name, names = 'keywords:frequency', ('frequency', 'relation')
  return [
    fact
    for word in _words(found)
    for fact in related(name, {'keyword': word}, *names, amount)
  ]


_RULE_OF_MARK = {
  '逗号': 'punctuation:no_comma',
  '感?叹号': 'punctuation:no_exclamation',
  '表情|emoji': 'punctuation:no_emoji',
  '陈词滥调|套话': 'style:no_cliche',
}
_MARK = (
  '(?:逗号|感叹号|叹号|表情符号|表情|emoji|陈词滥调|套话|问号|分号|冒号|句号'
  '|顿号|省略号)'
)
_MARKS = rf'(?P<marks>{_MARK}(?:(?:、|,|和|与|及|以及|或者?){_MARK})*)'


# After a mark that may be used, whatever was banned before it.
_MARK_ALLOWED = re.compile(
  '(?:倒|则|都|也|仍)?(?:可|能|要|允许|随意|适[量当]|没问题|无妨)'
)


def _marks(found: Found) -> list[Fact]:
  marks = found.masked('marks').lower()
  if ',' in marks and _MARK_ALLOWED.match(found.after):
    marks = marks.rpartition(',')[0]
  # 结尾不要用感叹号, 除了…, 逗号以外的标点, 表情描写
  excepted = re.match('[^,。]{0,4}(?:以外|之外)|包|描写', found.after)
  if excepted or '除了' in found.before or _IN_PART.search(found.before):
    return []
  return [
    Fact(name, {})
    for mark, name in _RULE_OF_MARK.items()
    if re.search(mark, marks)
  ]


# --- Beginnings and ends ----------------------------------------------------

_NOTE = re.compile('附言[^。;\n的]{0,8}$')


def _phrase(name: str, argument: str) -> Build:
  def build(found: Found) -> list[Fact]:
    phrase = found.quote('phrase')
    if english.IS_MARKER.fullmatch(phrase) or _NOTE.search(found.before):
      return []
    # A bullet, or a part: 第二段以…开头.
    if not re.search(r'\w', phrase) or re.match('的(?!话)', found.after):
      return []
    return [Fact(name, {argument: phrase})]

  return build


def _of_reply(found: Found) -> bool:
  part = re.search(
    '(?:第[^,。;]{1,3}段|每|各|行首|段首)[^,。;]{0,6}$|[每各][段句行节][^。;]*$',
    found.before,
  )
  return ours(found) and part is None


_MUST = (
  '(?:必须|须要?|应当?|要|需要?|得|都|也|共|总共|在文中|在全文中|在文章中)*'
)
_USE = (
  '(?:包含|包括|含有|使用|用到|用上|运用|出现|提到|提及|加入|融入|嵌入|写进去?'
  '|写入|带上|带有|用)'
)
# 至少出现三次, where the bound is before the verb.
_BOUND = '至少|最少|起码|最多|至多|不得超过|不超过|不少于|只'

PATTERNS = (
  # --- Lengths
  pattern(
    '(?P<amount><AMOUNT>)个?(?:汉|中文)?(?:字(?P<symbol>符)?)'
    '(?![母体典段眼句谜条面迹千词诀经]|不(?!超|多|少|低|得|能|要)|之(?![间内])|成语|开头|结尾'
    '|的?(?:短语|标题|网名|名字)|的词)'
    f'(?P<post><AFTER>?){_SECOND}',
    _characters,
    whole,
  ),
  pattern(
    r'(?:字数|篇幅|长度)(?:要求|限制|控制)?(?:应|须|要|请)?(?:在|为|是|:| )*'
    r'(?P<amount><AMOUNT>)(?![\d～~至到或–—-]|个?字)个?(?P<post><AFTER>?)'
    '(?! ?(?:分|秒|小时|天|页|集|章|回|幕|首|厘?米|行|句|段|节))',
    _characters,
    whole,
  ),
  pattern(
    '(?P<amount><AMOUNT>)(?:句话|个句子|句(?=[。,;!?\n]|以内|左右|以上|以下|$))'
    f'(?P<post><AFTER>?){_SECOND}',
    _length('length:sentences'),
    whole,
  ),
  pattern(
    '(?P<amount><AMOUNT>)个?(?:自然)?段落?(?!间|时|子)'
    f'(?P<post><AFTER>?){_SECOND}',
    _length('length:paragraphs'),
    whole,
  ),
  pattern(
    '(?P<amount><AMOUNT>)行(?!业|动|为|人|程|星|李|列|诗?的|音)'
    f'(?P<post><AFTER>?){_SECOND}',
    _length('length:lines'),
    whole,
  ),
  # --- Words and marks
  pattern(
    f'{_USE}<WORD>(?P<list><LIST>)'
    '(?!开头|开始|结尾|结束|为题|作|写起|收尾|引出|(?:这|个|一|的|词语?)*<AMOUNT>[次遍])',
    _include,
    positive,
  ),
  pattern(
    f'(?:词语?|单词|字眼)(?:写进去?|用上|包含进去?|加进去?|用进去?){NEAR}{{0,4}}'
    '(?P<list><LIST>)',
    _include,
  ),
  pattern(
    f'<NOT>(?:在[^,。;\n]{{0,12}}(?:中|里))?{_USE}?<WORD>(?P<list><LIST>)',
    _avoid,
  ),
  pattern(
    '(?:(?P<letter>字符|字母|汉字)|单词|关键词)?(?P<list><LIST>)'
    '(?:(?:这|两|三|几|个|一|的|词语?|字|单词)*)'
    f'{_MUST}(?P<bound>(?:{_BOUND})?)(?:的?出现次数:?|出现|使用|提到'
    f'|用)?{_MUST}(?P<amount><AMOUNT>)'
    '(?:次|遍)(?P<post><AFTER>?)',
    _times,
  ),
  pattern(
    f'(?:出现|使用|提到|用到){_MUST}(?:(?P<letter>字符|字母|汉字)|单词|关键词)?'
    '(?P<list><Q>)(?:这个词|一词|这个字)?(?P<amount><AMOUNT>)(?:次|遍)'
    '(?P<post><AFTER>?)',
    _times,
  ),
  pattern(
    '(?:出现|使用|提到|用到)(?P<amount><AMOUNT>)(?:次|遍)(?P<post><AFTER>?)'
    '(?:(?P<letter>字符|字母|汉字)|单词|关键词)?(?P<list><Q>)',
    _times,
  ),
  pattern(f'<NOT>(?:任何|一个|的)*{_MARKS}', _marks),
  pattern(f'一个{_MARKS}(?:也|都)(?:别|不|没)', _marks),
  # --- Beginnings and ends
  pattern(
    '(?:以|用|从|由)(?P<phrase><Q>)(?:这句话|这几个字|一句|二字|作为?|来|为)*'
    '(?:开头|开始|开篇|起头|写起|打头)',
    _phrase('startend:start_checker', 'start_phrase'),
    _of_reply,
  ),
  pattern(
    '(?:开头|开篇|起首)(?:第一句)?(?:必须|须|要|应|请|一定)*(?:是|为|写|用)'
    '(?P<phrase><Q>)',
    _phrase('startend:start_checker', 'start_phrase'),
    _of_reply,
  ),
  pattern(
    '(?:以|用|由)(?P<phrase><Q>)(?:这句话|这几个字|一句|二字|作为?|来|为)*'
    '(?:结尾|结束|收尾|收束|作结|告终)',
    _phrase('startend:end_checker', 'end_phrase'),
    _of_reply,
  ),
  pattern(
    '(?:结尾|末尾|文末)(?:最后一句)?(?:必须|须|要|应|请|一定)*(?:是|为|写|用)'
    '(?P<phrase><Q>)',
    _phrase('startend:end_checker', 'end_phrase'),
    _of_reply,
  ),
  pattern(
    f'(?:全文|整篇|整个|全部|全诗|回答|回复|内容){NEAR}{{0,12}}双引号'
    f'|双引号{NEAR}{{0,6}}(?:全文|整篇)',
    fixed('startend:quotation'),
  ),
)
