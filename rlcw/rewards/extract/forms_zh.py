"""Chinese wordings of format, case, language, verse and manner."""

import re

from rlcw.rewards.extract import amounts
from rlcw.rewards.extract.chinese import (
  NEAR,
  pattern,
  whole,
)
from rlcw.rewards.extract.facts import (
  Build,
  Fact,
  Found,
  exactly,
  fixed,
  related,
)
from rlcw.rewards.rules import languages

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
  if re.search('标题|LOGO|品牌|名', found.before[-8:] + found.whole):
    return []
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
  # 写一个人用英语写情书的故事; 人名用英文
  told = re.match(
    '来?写(?:标题|题目|[人店书片]名|署名|落款|台词|旁白|副歌|主歌)'
    '|来?写[^,。]{0,10}的(?:故事|情节|段子|笑话|小说|人|歌词)|[^,。]{0,4}者',
    found.after,
  )
  named = re.search(
    '(?:标题|题目|[人店书片]名|署名|落款|台词|旁白|副歌|主歌|正文|其余|其他)'
    '[^,。]{0,3}$',
    found.before,
  )
  if told or named:
    return []
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
  if re.search(
    '(?:什么是|赏析|解释|介绍|仿照|把这首|改)[^。]{0,6}$', found.before
  ):
    return []
  size = 5 if found.masked('size') == '五' else 7
  lines = 4 if '绝' in found.masked('form') else 8
  return [Fact('poem:clauses', {'num_lines': lines, 'num_characters': size})]


def _scheme(found: Found) -> list[Fact]:
  return [Fact('poem:rhyme', {'scheme': found.text('scheme').upper()})]


def _acrostic(found: Found) -> list[Fact]:
  letters = found.quote('letters') or found.quote('hidden')
  return [Fact('poem:acrostic', {'letters': letters})]


_CASE = '(?P<case>小写|大写)'

PATTERNS = (
  # --- Forms
  pattern(
    r'(?:以|用|按|合法的?|写成|采用|输出|返回|须是)(?:为|成|合法的?|有效的?)*JSON'
    r'(?:格式|数据)?(?!写)|JSON\s?格式',
    fixed('detectable_format:json_format'),
  ),
  pattern(
    '(?<!以下)(?<!下面)(?<!上述)(?<!下列)(?P<amount><AMOUNT>)(?:个|条|项)'
    '(?:以<Q>开头的)?(?:要点|项目符号|列表项)(?!列表)'
    '(?P<post>)',
    exactly('detectable_format:number_bullet_lists', 'num_bullets'),
  ),
  pattern(
    '(?:要点|项目符号)(?:有|为)?(?P<amount><AMOUNT>)(?:个|条|项)(?P<post>)',
    exactly('detectable_format:number_bullet_lists', 'num_bullets'),
  ),
  pattern(
    f'标题{NEAR}{{0,12}}(?:《》|<<|书名号|双尖括号)'
    f'|(?:《》|<<\\s?>>|书名号){NEAR}{{0,12}}标题',
    fixed('detectable_format:title'),
  ),
  pattern('(?P<amount><NUMBER>)处', _highlights),
  pattern(
    f'(?P<amount><NUMBER>)个?(?:小?节|部分|章){NEAR}{{0,16}}?[以用标写加为叫题]'
    f'{NEAR}{{0,12}}?(?P<name><Q>)',
    _sections,
  ),
  pattern(
    f'(?P<amount><NUMBER>)(?:处|个){NEAR}{{0,12}}?(?:占位符|待填)',
    _least('detectable_content:number_placeholders', 'num_placeholders'),
  ),
  pattern(
    f'占位符{NEAR}{{0,8}}?(?P<amount><NUMBER>)(?:处|个)',
    _least('detectable_content:number_placeholders', 'num_placeholders'),
  ),
  pattern(
    f'附言{NEAR}{{0,16}}?(?P<marker><MARKER>|又及:?|附:|<Q>)', _postscript
  ),
  pattern(
    f'(?P<marker><MARKER>|又及:?|附:|<Q>)(?={NEAR}{{0,10}}?附言)', _postscript
  ),
  pattern(
    '(?P<nth>第<NUMBER>|最后一)段(?:要|须|必须|应|的)*(?:以|从|用|开头(?:须|要|必须)?'
    '(?:是|为))(?P<word><Q>)(?:开头|写起|开始)?',
    _first_word,
  ),
  pattern('(?P<amount><AMOUNT>)个?(?:部分|节|段落?)(?P<post>)', _parts, whole),
  pattern(
    f'(?:重复|照抄|复述|抄写|写一遍|重述){NEAR}{{0,16}}?'
    '(?:要求|问题|请求|题目|这句话?|以下|下面|原文|内容|:)'
    f'{NEAR}{{0,16}}?(?P<prompt><Q>)'
    f'|(?:重复|照抄|复述|抄写|重述){NEAR}{{0,3}}?(?P<where>上|下)'
    f'{NEAR}{{0,3}}?(?:要求|问题|请求|题目|内容|文字)',
    _repeat,
  ),
  pattern(
    f'(?:英文|字母){NEAR}{{0,3}}?(?:全部|都|一律|须全是|全是|全用|只用|均)'
    f'(?:用|是|为|须|要)*{_CASE}(?!的(?:英文)?单词)',
    _case,
  ),
  pattern(
    '(?:全大写|全部大写|都大写)的(?:英文)?单词(?:数量|个数)?:?'
    '(?P<amount><AMOUNT>)个(?P<post><AFTER>?)',
    _capital_words,
  ),
  pattern(
    '(?P<amount><AMOUNT>)个(?:全大写|全部大写)的(?:英文)?单词(?P<post>)',
    _capital_words,
  ),
  pattern(
    f'(?:用|使用|以|须用|翻译成|译成|译为){_LANGUAGE}(?=来?(?:写|回答|回复|作答'
    '|书写|撰写|创作|输出|表达|完成|进行)|[。,;!\n ]|$)',
    _language,
  ),
  pattern(
    '(?:[用以成为须要]|须是)(?P<script>简体|繁体)(?:中文|汉字|字)',
    _script,
  ),
  # --- Verse
  pattern(
    '(?P<lines><NUMBER>)(?:句|行),?(?:不多不少,)?每(?:句|行)(?:都|均|各)?(?:是|为'
    '|有)?(?P<size><NUMBER>)个?(?:汉字|字)',
    _clauses,
  ),
  pattern(
    '(?P<size>五|七)(?:言)?(?P<form>绝句|律诗|绝(?!对)|律(?!师))(?!风格|的意境)',
    _classical,
  ),
  pattern(
    '(?:写|作|成|来|创作|用)(?:一|首|个|成|出)*(?:[^。,]{0,10}的)?俳句(?!的(?!形式))',
    fixed('poem:haiku'),
  ),
  pattern(
    r'(?:按照?|韵式|韵脚)[^A-Za-z。\n]{0,8}(?P<scheme>(?-i:[A-Z]{2,16}))',
    _scheme,
  ),
  pattern(
    f'藏头诗?{NEAR}{{0,24}}?(?P<letters><Q>)'
    f'|(?P<hidden><Q>){NEAR}{{0,6}}(?:藏头|藏在各行)',
    _acrostic,
  ),
  # --- Manner
  pattern(
    '(?:不要?|不得|不能|不可以?|不许|不准|别|勿|禁止|避免|绝不|从不)'
    '(?:再|主动|在文中)*'
    '(?:提及|提到|提|说|透露|承认|表明|暴露|自称|出现)'
    f'{NEAR}{{0,6}}?(?:AI|人工智能|语言模型)(?!味|腔|写|生成)',
    fixed('style:no_self_reference'),
    reads_negation=True,
  ),
  pattern(
    '只(?:写|输出|给出|要)(?:作品|诗歌?|故事|正文|信|文章)(?:本身|即可)'
    '|不(?:加|要|需要?|做|作)(?:任何|有|额外|多余|的)*'
    '(?:说明|解释|开场白|前言)(?![文的就])'
    '|直接(?:给出|写|输出)(?:作品|正文)|除作品外',
    fixed('style:piece_alone'),
  ),
  pattern(
    '(?:任何)?一行都不要重复|不得有内容相同的两行|不要?重复(?:任何|的)?(?:一行|行)'
    '|每一?行都要?(?:和|与)?[^。\n]{0,5}不同',
    fixed('style:no_repeated_line'),
  ),
)
