"""Chinese wordings of rules.

The masked text has narrow commas and colons; the full stop is 。.
"""

import re

from rlcw.rewards.extract import amounts
from rlcw.rewards.extract.english import PARTS
from rlcw.rewards.extract.facts import (
  Build,
  Fact,
  Found,
  Pattern,
  bounds,
  exactly,
  fixed,
  related,
)
from rlcw.rewards.rules import languages

_PARTS = PARTS | {
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
_NEAR = '[^。\n]'


def _compiled(pattern: str) -> re.Pattern[str]:
  while (
    filled := re.sub('<([A-Z]+)>', lambda m: f'(?:{_PARTS[m[1]]})', pattern)
  ) != pattern:
    pattern = filled
  return re.compile(pattern, re.IGNORECASE)


# Before what somebody else writes, or the name of something.
_OTHERS = re.compile(
  '(?:(?<!请)(?:他|她|他们|她们|人们|有人)[^,。\n]{0,8}|写了|说了|写过|认识|背下'
  '|学会|读了|(?:关于|名为|题为|叫做?)[^,。\n]{0,3})$'
)
# Before what is asked of parts of the reply.
_OF_PARTS = re.compile(
  '(?:每|各|任何)(?:(?!全文|全篇|全诗|总|整)[^。\n])*$|(?:标题|题目|开头|结尾|首句|末句)[^,。\n]{0,6}$'
  '|(?:第|最后|这|那|上|下|前|后|中间)[^,。\n]{0,1}$'
)


_NEGATIVE = _compiled(
  '(?:<NOT>|(?:不要|不得|不能|避免|请勿|禁止)[^,。;\n]{0,16})$'
)


def _ours(found: Found) -> bool:
  return not _OTHERS.search(found.before)


def _whole(found: Found) -> bool:
  return _ours(found) and not _OF_PARTS.search(found.before)


def _pattern(text: str, build: Build, accepts=_ours) -> Pattern:
  return Pattern(_compiled(text), build, accepts)


def _positive(found: Found) -> bool:
  return _ours(found) and not _NEGATIVE.search(found.before)


# --- Lengths ----------------------------------------------------------------

_WITH_MARKS = re.compile(
  '[,(]*(?:(?<!不)含标点|包含标点|包括标点|标点计入|标点也算|连标点|算上标点'
  '|计标点)'
)


def _characters(found: Found) -> list[Fact]:
  """Han characters, with the punctuation if the text says so."""
  amount = found.amount()
  if amount.bare:
    # 一字 begins idioms, such as 一字不差.
    if (amount.low or 0) < 2:
      return []
    amount = amounts.about(amount.low or 0)
  marks = _WITH_MARKS.match(found.after) or found.has('symbol')
  return [bounds('length:characters' if marks else 'length:words', amount)]


# Before a number alone that is a length: 写一段祝福 counts nothing.
_FRAME = re.compile(
  '(?:^|[,:。;(\n]|写|共|用|分成?|分为|作|为|有|全文|全诗|全篇|以|出|成|来|要求|限)'
  '[ ]*$'
)
_FRAME_OF_ONE = re.compile('(?:用|以|限|只有?|仅|共)$')


def _length(name: str) -> Build:
  def build(found: Found) -> list[Fact]:
    amount = found.amount()
    frame = _FRAME if (amount.low or 0) > 1 else _FRAME_OF_ONE
    if amount.bare and not frame.search(found.before):
      return []
    return [bounds(name, amount)]

  return build


# --- Words ------------------------------------------------------------------


def _words(found: Found) -> list[str]:
  return [word.strip() for word in found.quotes('list') if word.strip()]


def _include(found: Found) -> list[Fact]:
  if '或' in found.masked('list'):
    return []
  return [Fact('keywords:existence', {'keywords': _words(found)})]


def _avoid(found: Found) -> list[Fact]:
  return [Fact('keywords:forbidden_words', {'forbidden_words': _words(found)})]


def _times(found: Found) -> list[Fact]:
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


def _marks(found: Found) -> list[Fact]:
  marks = found.masked('marks').lower()
  return [
    Fact(name, {})
    for mark, name in _RULE_OF_MARK.items()
    if re.search(mark, marks)
  ]


# --- Beginnings and ends ----------------------------------------------------


def _phrase(name: str, argument: str) -> Build:
  def build(found: Found) -> list[Fact]:
    phrase = found.quote('phrase')
    # A bullet, or a part: 第二段以…开头.
    if not re.search(r'\w', phrase) or re.match('的(?!话)', found.after):
      return []
    return [Fact(name, {argument: phrase})]

  return build


def _of_reply(found: Found) -> bool:
  part = re.search(
    '(?:第[^,。;]{1,3}段|每|各|行首|段首)[^,。;]{0,6}$', found.before
  )
  return _ours(found) and part is None


# --- Forms ------------------------------------------------------------------


def _least(name: str, argument: str) -> Build:
  """A least number, unless the sentence gives another bound."""

  def build(found: Found) -> list[Fact]:
    if re.search('不超过|最多|至多|正好|恰好|刚好|不多不少', found.sentence):
      return []
    return [Fact(name, {argument: amounts.number(found.masked('amount'))})]

  return build


_highlight = _least('_highlights', 'count')


def _highlights(found: Found) -> list[Fact]:
  marked = re.search(r'星号|\*|加粗|斜体|高亮', found.sentence)
  return [*_highlight(found)] if marked else []


def _sections(found: Found) -> list[Fact]:
  name = re.sub(r'[\s.]*(?:\d+|X|一)?$', '', found.quote('name')).strip()
  count = amounts.number(found.masked('amount'))
  section = {'num_sections': count, 'section_spliter': name}
  return [Fact('detectable_format:multiple_sections', section)]


def _postscript(found: Found) -> list[Fact]:
  marker = found.quote('marker')
  return [Fact('detectable_content:postscript', {'postscript_marker': marker})]


def _first_word(found: Found) -> list[Fact]:
  nth = found.masked('nth')
  number = -1 if nth == '最后一' else amounts.number(nth.strip('第'))
  return [Fact('_first_word', {'nth': number, 'word': found.quote('word')})]


def _parts(found: Found) -> list[Fact]:
  amount = found.amount()
  if (amount.single or 0) < 2:
    return []
  return [Fact('_parts', {'count': amount.low, 'exact': True})]


def _repeat(found: Found) -> list[Fact]:
  prompt = found.quote('prompt') if found.has('prompt') else ''
  where = {'上': 'above', '下': 'below'}.get(found.masked('where'), '')
  return [Fact('_repeat', {'prompt': prompt, 'where': where})]


def _case(found: Found) -> list[Fact]:
  kind = 'lowercase' if found.masked('case') == '小写' else 'capital'
  return [Fact(f'change_case:english_{kind}', {})]


def _capital_words(found: Found) -> list[Fact]:
  return related(
    'change_case:capital_word_frequency',
    {},
    'capital_frequency',
    'capital_relation',
    found.amount(),
  )


_CODES = {chinese: code for code, (_, chinese) in languages.NAMES.items()}
_CODES |= {
  name[:-1] + other: code
  for name, code in _CODES.items()
  for other in '语文'
  if len(name) == 2
}
_CODES |= {'汉语': 'zh', '普通话': 'zh', '日文': 'ja'}
_LANGUAGE = f'(?P<language>{"|".join(sorted(_CODES, key=len, reverse=True))})'


def _language(found: Found) -> list[Fact]:
  code = _CODES[found.masked('language')]
  return [Fact('language:response_language', {'language': code})]


def _script(found: Found) -> list[Fact]:
  simplified = '简' in found.masked('script')
  script = 'simplified' if simplified else 'traditional'
  return [Fact('style:script', {'script': script})]


def _clauses(found: Found) -> list[Fact]:
  lines, size = (amounts.number(found.masked(n)) for n in ('lines', 'size'))
  return [Fact('poem:clauses', {'num_lines': lines, 'num_characters': size})]


def _classical(found: Found) -> list[Fact]:
  size = 5 if found.masked('size') == '五' else 7
  lines = 4 if '绝' in found.masked('form') else 8
  return [Fact('poem:clauses', {'num_lines': lines, 'num_characters': size})]


def _scheme(found: Found) -> list[Fact]:
  return [Fact('poem:rhyme', {'scheme': found.text('scheme').upper()})]


def _acrostic(found: Found) -> list[Fact]:
  letters = found.quote('letters') or found.quote('hidden')
  return [Fact('poem:acrostic', {'letters': letters})]


_MUST = (
  '(?:必须|须要?|应当?|要|需要?|得|都|也|共|总共|在文中|在全文中|在文章中)*'
)
_USE = (
  '(?:包含|包括|含有|使用|用到|用上|运用|出现|提到|提及|加入|融入|嵌入|写进去?'
  '|写入|带上|带有|用)'
)
_CASE = '(?P<case>小写|大写)'
# 至少出现三次, where the bound is before the verb.
_BOUND = '至少|最少|起码|最多|至多|不得超过|不超过|不少于|只'

PATTERNS = (
  # --- Lengths
  _pattern(
    '(?P<amount><AMOUNT>)个?(?:汉|中文)?(?:字(?P<symbol>符)?)'
    '(?!母|体|典|段|眼|句|谜|条|面|迹|不|之|千|成语|词|诀|经|开头|结尾)'
    '(?P<post><AFTER>?)',
    _characters,
    _whole,
  ),
  _pattern(
    r'(?:字数|篇幅|长度)(?:要求|限制|控制)?(?:应|须|要|请)?(?:在|为|是|:| )*'
    r'(?P<amount><AMOUNT>)(?![\d～~至到或–—-]|个?字)个?(?P<post><AFTER>?)',
    _characters,
    _whole,
  ),
  _pattern(
    '(?P<amount><AMOUNT>)(?:句话|个句子|句(?=[。,;!?\n]|以内|左右|以上|以下|$))'
    '(?P<post><AFTER>?)',
    _length('length:sentences'),
    _whole,
  ),
  _pattern(
    '(?P<amount><AMOUNT>)个?(?:自然)?段落?(?!间|时|子)(?P<post><AFTER>?)',
    _length('length:paragraphs'),
    _whole,
  ),
  _pattern(
    '(?P<amount><AMOUNT>)行(?!业|动|为|人|程|星|李|列|诗?的|音)'
    '(?P<post><AFTER>?)',
    _length('length:lines'),
    _whole,
  ),
  # --- Words and marks
  _pattern(
    f'{_USE}<WORD>(?P<list><LIST>)'
    '(?!开头|开始|结尾|结束|为题|作|写起|收尾|引出|(?:这|个|一|的|词语?)*<AMOUNT>[次遍])',
    _include,
    _positive,
  ),
  _pattern(
    f'(?:词语?|单词|字眼)(?:写进去?|用上|包含进去?|加进去?|用进去?){_NEAR}{{0,4}}'
    '(?P<list><LIST>)',
    _include,
  ),
  _pattern(
    f'<NOT>(?:在[^,。;\n]{{0,12}}(?:中|里))?{_USE}?<WORD>(?P<list><LIST>)',
    _avoid,
  ),
  _pattern(
    '(?:(?P<letter>字符|字母|汉字)|单词|关键词)?(?P<list><LIST>)'
    '(?:(?:这|两|三|几|个|一|的|词语?|字|单词)*)'
    f'{_MUST}(?P<bound>(?:{_BOUND})?)(?:的?出现次数:?|出现|使用|提到|用)?{_MUST}(?P<amount><AMOUNT>)'
    '(?:次|遍)(?P<post><AFTER>?)',
    _times,
  ),
  _pattern(
    f'(?:出现|使用|提到|用到){_MUST}(?:(?P<letter>字符|字母|汉字)|单词|关键词)?'
    '(?P<list><Q>)(?:这个词|一词|这个字)?(?P<amount><AMOUNT>)(?:次|遍)'
    '(?P<post><AFTER>?)',
    _times,
  ),
  _pattern(
    '(?:出现|使用|提到|用到)(?P<amount><AMOUNT>)(?:次|遍)(?P<post><AFTER>?)'
    '(?:(?P<letter>字符|字母|汉字)|单词|关键词)?(?P<list><Q>)',
    _times,
  ),
  _pattern(f'<NOT>(?:任何|一个|的)*{_MARKS}', _marks),
  _pattern(f'一个{_MARKS}(?:也|都)(?:别|不|没)', _marks),
  # --- Beginnings and ends
  _pattern(
    '(?:以|用|从|由)(?P<phrase><Q>)(?:这句话|这几个字|一句|二字|作为?|来|为)*'
    '(?:开头|开始|开篇|起头|写起|打头)',
    _phrase('startend:start_checker', 'start_phrase'),
    _of_reply,
  ),
  _pattern(
    '(?:开头|开篇|起首)(?:第一句)?(?:必须|须|要|应|请|一定)*(?:是|为|写|用)'
    '(?P<phrase><Q>)',
    _phrase('startend:start_checker', 'start_phrase'),
    _of_reply,
  ),
  _pattern(
    '(?:以|用|由)(?P<phrase><Q>)(?:这句话|这几个字|一句|二字|作为?|来|为)*'
    '(?:结尾|结束|收尾|收束|作结|告终)',
    _phrase('startend:end_checker', 'end_phrase'),
    _of_reply,
  ),
  _pattern(
    '(?:结尾|末尾|文末)(?:最后一句)?(?:必须|须|要|应|请|一定)*(?:是|为|写|用)'
    '(?P<phrase><Q>)',
    _phrase('startend:end_checker', 'end_phrase'),
    _of_reply,
  ),
  _pattern(
    f'(?:全文|整篇|整个|全部|全诗|回答|回复|内容){_NEAR}{{0,12}}双引号'
    f'|双引号{_NEAR}{{0,6}}(?:全文|整篇)',
    fixed('startend:quotation'),
  ),
  # --- Forms
  _pattern(
    r'(?:以|用|按|合法的?|写成|采用|输出|返回|须是)(?:为|成|合法的?|有效的?)*JSON'
    r'(?:格式|数据)?|JSON\s?格式',
    fixed('detectable_format:json_format'),
  ),
  _pattern(
    '(?P<amount><AMOUNT>)(?:个|条|项)(?:以<Q>开头的)?(?:要点|项目符号|列表项)(?!列表)'
    '(?P<post>)',
    exactly('detectable_format:number_bullet_lists', 'num_bullets'),
  ),
  _pattern(
    '(?:要点|项目符号)(?:有|为)?(?P<amount><AMOUNT>)(?:个|条|项)(?P<post>)',
    exactly('detectable_format:number_bullet_lists', 'num_bullets'),
  ),
  _pattern(
    f'标题{_NEAR}{{0,12}}(?:《》|<<|书名号|双尖括号)'
    f'|(?:《》|<<\\s?>>|书名号){_NEAR}{{0,12}}标题',
    fixed('detectable_format:title'),
  ),
  _pattern('(?P<amount><NUMBER>)处', _highlights),
  _pattern(
    f'(?P<amount><NUMBER>)个?(?:小?节|部分|章){_NEAR}{{0,24}}?(?P<name><Q>)',
    _sections,
  ),
  _pattern(
    f'(?P<amount><NUMBER>)(?:处|个){_NEAR}{{0,12}}?(?:占位符|待填)',
    _least('detectable_content:number_placeholders', 'num_placeholders'),
  ),
  _pattern(
    f'占位符{_NEAR}{{0,8}}?(?P<amount><NUMBER>)(?:处|个)',
    _least('detectable_content:number_placeholders', 'num_placeholders'),
  ),
  _pattern(
    f'附言{_NEAR}{{0,16}}?(?P<marker><MARKER>|又及:?|附:|<Q>)', _postscript
  ),
  _pattern(
    f'(?P<marker><MARKER>|又及:?|附:|<Q>)(?={_NEAR}{{0,10}}?附言)', _postscript
  ),
  _pattern(
    '(?P<nth>第<NUMBER>|最后一)段(?:要|须|必须|应|的)*(?:以|从|用|开头(?:须|要|必须)?'
    '(?:是|为))(?P<word><Q>)(?:开头|写起|开始)?',
    _first_word,
  ),
  _pattern(
    '(?P<amount><AMOUNT>)个?(?:部分|节|段落?)(?P<post>)', _parts, _whole
  ),
  _pattern(
    f'(?:重复|照抄|复述|抄写|写一遍|重述){_NEAR}{{0,30}}?(?P<prompt><Q>)'
    f'|(?:重复|照抄|复述|抄写|重述){_NEAR}{{0,3}}?(?P<where>上|下)'
    f'{_NEAR}{{0,3}}?(?:要求|问题|请求|题目|内容|文字)',
    _repeat,
  ),
  _pattern(
    f'(?:英文|字母){_NEAR}{{0,3}}?(?:全部|都|一律|须全是|全是|全用|只用|均)'
    f'(?:用|是|为|须|要)*{_CASE}(?!的(?:英文)?单词)',
    _case,
  ),
  _pattern(
    '(?:全大写|全部大写|都大写)的(?:英文)?单词(?:数量|个数)?:?'
    '(?P<amount><AMOUNT>)个(?P<post><AFTER>?)',
    _capital_words,
  ),
  _pattern(
    '(?P<amount><AMOUNT>)个(?:全大写|全部大写)的(?:英文)?单词(?P<post>)',
    _capital_words,
  ),
  _pattern(
    f'(?:用|使用|以|须用|翻译成|译成|译为){_LANGUAGE}(?=来?(?:写|回答|回复|作答'
    '|书写|撰写|创作|输出|表达|完成|进行)|[。,;!\n ]|$)',
    _language,
  ),
  _pattern(
    '(?P<script>简体|繁体)(?:中文|汉字|字)',
    _script,
  ),
  # --- Verse
  _pattern(
    '(?P<lines><NUMBER>)(?:句|行),?(?:不多不少,)?每(?:句|行)(?:都|均|各)?(?:是|为'
    '|有)?(?P<size><NUMBER>)个?(?:汉字|字)',
    _clauses,
  ),
  _pattern(
    '(?P<size>五|七)(?:言)?(?P<form>绝句|律诗|绝(?!对)|律(?!师))', _classical
  ),
  _pattern(
    '(?:写|作|成|来|创作|用)(?:一|首|个|成|出)*(?:[^。,]{0,10}的)?俳句(?!的)',
    fixed('poem:haiku'),
  ),
  _pattern(
    r'(?:按照?|韵式|韵脚)[^A-Za-z。\n]{0,8}(?P<scheme>(?-i:[A-Z]{2,16}))',
    _scheme,
  ),
  _pattern(
    f'藏头诗?{_NEAR}{{0,24}}?(?P<letters><Q>)'
    f'|(?P<hidden><Q>){_NEAR}{{0,6}}(?:藏头|藏在各行)',
    _acrostic,
  ),
  # --- Manner
  _pattern(
    f'(?:<NOT>)(?:提|说|透露|承认|表明)?{_NEAR}{{0,6}}?(?:AI|人工智能|语言模型)',
    fixed('style:no_self_reference'),
  ),
  _pattern(
    '只(?:写|输出|给出|要)(?:作品|诗歌?|故事|正文|信|文章)(?:本身|即可)'
    '|不(?:加|要|需要?|做|作)(?:任何|有|额外|多余|的)*(?:说明|解释|开场白|前言)'
    '|直接(?:给出|写|输出)(?:作品|正文)|除作品外',
    fixed('style:piece_alone'),
  ),
  _pattern(
    '(?:任何)?一行都不要重复|不得有内容相同的两行|不要?重复(?:任何|的)?(?:一行|行)'
    '|每一?行都要?(?:和|与)?[^。\n]{0,5}不同',
    fixed('style:no_repeated_line'),
  ),
)
