"""Habits of language models: talk around a piece, and stock phrases.

All patterns apply to folded text: lower case, narrow commas and colons, and
simplified characters.  Those of phrases apply to it without emphasis.
"""

import re

import regex

from rlcw.rewards.rules.text import fold, unmarked

# Phrases by which a reply calls its writer a model.
_MODEL = (
  r'(?:ai|(?:large )?language model|machine learning model|chatbot'
  r'|digital assistant|artificial intelligence)\b'
  # Not somebody who studies it.
  r'(?!"? (?:researcher|engineer|expert|scientist|student|developer|artist'
  r'|ethic|company|lab|teacher|professor))'
)
_PRODUCT = r'(?:chatgpt|gpt-?\d|qwen|smollm|deepseek|通义千问|文心一言)'
SELF = regex.compile(
  rf'\b(?:as|being)(?: an?| your) "?(?:[\w\-]+ )?{_MODEL}'
  rf'|\b(?:i\'m|i am)(?: just| only|(?: [\w\-]+)?,)? an? "?{_MODEL}'
  rf'|\bwritten by an? "?{_MODEL}'
  # Not of a picture or a song in the piece.
  r'|(?:(?<=^|[.!?(\n] ?)|\bthis (?:\w+ )?(?:is|was) )'
  r'(?:generated|created|composed|written)'
  rf' by (?:an? )?"?{_MODEL}'
  rf'|\b(?:i\'m|i am) {_PRODUCT}\b|\bmy training data\b'
  r'|\bi was (?:trained|created|developed) by (?:openai|alibaba|google|meta'
  r'|hugging ?face|deepseek|anthropic|microsoft)\b'
  # Not a student of it, nor a child of its age.
  r'|(?:作为|身为|我(?:只)?是)(?:[你您]的)?(?:一[个名款])?'
  r'(?:由?[^\s,。]{1,8}(?:开发|训练|创造)的)? ?["「]?'
  r'(?:(?:ai|人工智能)'
  r'(?!["」]? ?(?:专业|专家|时代|课|领域|行业|公司|研究|工程|学|从业))'
  r'|(?:大型?)?语言模型|智能助手|聊天机器人)'
  rf'|我(?:只)?是{_PRODUCT}'
  r'|(?:[本此]文|(?:这|以上)[^\s,。的]{0,4})由(?:ai|人工智能)(?:生成|创作|撰写)'
)
# Kinds of pieces, and other names of one.
_KIND = (
  r'(?:poems?|verses?|haikus?|limericks?|sonnets?|ballads?|odes?|songs?|lyrics'
  r'|stor(?:y|ies)|tales?|fables?|scenes?|dialogues?|monologues?|scripts?'
  r'|speech|toasts?|eulogy|essays?|articles?|paragraphs?|letters?|captions?'
  r'|slogans?|taglines?|drafts?|versions?)\b'
)
_NAME = (
  rf'(?:{_KIND}|(?:e-?mails?|reviews?|descriptions?|passages?|posts?|tweets?'
  r'|messages?|greetings?|wishes|blessings?|cards?|pieces?|texts?|attempts?'
  r'|takes?|examples?|options?|ideas?|suggestions?|responses?|repl(?:y|ies)'
  r'|answers?)\b)'
)
_NAME_ZH = (
  '(?:诗|词|歌|故事|小说|散文|文章|短文|作文|文案|作品|内容|回复|回答|答案|祝福'
  '|贺卡|致辞|发言|演讲|讲稿|信|对联|剧本|台词|标语|口号|版本|示例|范文|稿)'
)
_SOME_ZH = r'(?:[\d一二两三四五几][首篇段则个封份条副套]|[为给][你您])'
_FOR_YOU_ZH = '我?(?:已经?)?[为给帮替][你您](?:写|准备|创作|撰写|拟|送上|献上)'
_COLON = r'[^\n]{0,80}:[*_ ]*(?:\n|$)'  # at the end of the line
_STOP = r' *[.!]?(?:\n|$)'
# A piece may begin "Here is the sea", 以下是春风 or "Here are our rules:".
_ANNOUNCED = '|'.join(
  (
    # Here's a poem about the sea:
    r"(?:(?:here|below|the following)(?:'s| is| are)|this is"
    r"|(?:please )?find below|below,? you(?:'ll| will| can) find"
    r"|i(?:'ve| have)? (?:written|wrote|composed|created|crafted|prepared)"
    rf'|(?:let|allow) me)\b[^\n:]{{0,80}}?\b{_NAME}{_COLON}',
    r"here(?:'s| is| are) (?:(?:an?|some|your|one|it)\b|[^\n:]{0,80}?\b"
    rf'(?:came up with|you (?:asked|requested)))[^\n]{{0,80}}{_COLON}',
    # Here's a poem about the sea: the waves
    r"here(?:'s| is| are) (?:an?|some|your|one|two|three) (?:[\w\-]+,? ){0,4}?"
    rf'{_KIND}(?: (?:for|about|on|in|with|that|based|inspired|celebrating'
    r'|using|as)\b[^\n:]{0,80})?:',
    # Here is your poem.  Great, here is a poem.  Below is a poem for you!
    rf"here(?:'s| is| are) (?:your (?:[\w\-]+ ){{0,4}}?{_NAME}"
    rf'|(?<=[!,] here.{{2,4}})an? (?:[\w\-]+ ){{0,4}}?{_KIND}){_STOP}',
    r"(?:here|below|this)(?:'s| is| are)[^\n:]{0,80}"
    rf'\b(?:for you|you asked for|you requested){_STOP}',
    r"in this (?:poem|story|piece|scene), i(?:'ve| have|'ll| will)\b",
    r'here you (?:go *(?:[.!:]|\n|$)|are *:)',
    r"(?:here (?:we go|goes)|let(?: me|'s) (?:try|begin|start)"
    rf'|as (?:you )?(?:asked|requested)){_COLON}',
    rf"(?:i(?:'ll| will| can)|let's) (?:try to )?(?:write|create|compose|craft)"
    rf'\b[^\n:]{{0,80}}?\b{_KIND}{_COLON}',
    r"(?:i(?:'d| would) be (?:happy|glad|delighted) to|i can(?: certainly"
    r'| definitely)?) (?:(?:help|assist)(?: you)?(?: with [^\n.!:]{1,40})?'
    r' *[.!:]|do that *[.!:])',
    r"i(?:'d| would) (?:be (?:happy|glad|delighted)|love) to"
    rf' (?:write|create|compose|craft)\b[^\n]{{0,80}}?\b(?:{_KIND}|for you\b)',
    rf'(?:请(?:看|欣赏|查收))?(?:以下|下面)[^\n:]{{0,80}}?(?:{_NAME_ZH}|{_SOME_ZH}'
    rf'|供[你您]|参考|创作|撰写|设计){_COLON}',
    rf'(?:以下|下面)[^\n:,。]{{0,9}}?{_SOME_ZH}[^\n:,。]{{0,30}}?{_NAME_ZH}'
    r'[^\n:,。]{0,9}(?::|\n|$)',
    rf'这(?:里?[是有]|[首篇])[^\n:]{{0,9}}?{_SOME_ZH}{_COLON}',
    rf'{_NAME_ZH}如下{_COLON}',
    # 我为您写了一首诗：春风
    rf'{_FOR_YOU_ZH}[^\n信]{_COLON}',
    rf'{_FOR_YOU_ZH}[了好一几][^\n,。:]{{0,30}}?{_NAME_ZH}[^\n,。:]{{0,9}}:',
    r'我?[为给]您(?:写|创作)了[^\n]{0,30}。(?:\n|$)',
    rf'(?:现在|这就|我来|让我|我可以){_FOR_YOU_ZH}',
    '(?:根据|按照?|依据)[你您]的[^\n,。]{0,12}(?:要求|需求|提示|描述|主题)',
  )
)
# Openings that announce a piece instead of beginning it.
_BEFORE = regex.compile(
  # Few words may stand before: Great!  What a lovely idea!
  rf'(?:[^\n]{{0,60}}?[.!,:~。\-—] *)??(?:{_ANNOUNCED})'
  # Before a comma these may begin a piece ("Certainly, love, it rained"), so
  # the rest of the line must announce one.
  r'|(?:sure|certainly|of course|absolutely|okay|ok|no problem)(?: thing)?\b *'
  r'(?:[.!]|:?[*_ ]*(?:\n|$)|[,\-—](?=[^\n]*(?:'
  r"\bhere(?:'s| is| are)\b|\bbelow\b|\b(?:happy|glad) to\b"
  r'|\bi can (?:help|write)\b|:[*_ ]*(?:\n|$))))'
  r'|(?:(?:my|the|final|revised|short) ){0,2}(?:answer|response|output|reply'
  rf'|draft|version|{_KIND}):[*_ ]*(?:\n|$)'
  # A speech may begin 好的，各位, and a letter 好的，妈 or 当然，我记得.
  r'|(?:好的|没有?问题)(?:[~。!:]| *(?:\n|$)|,)(?<!,(?=(?:尊敬的|亲爱的)?'
  r'(?:各位|诸位|大家|主席|同学们|[爸妈哥姐弟妹]{1,2}[,!]|爷爷|奶奶|外公|外婆|姥姥|姥爷'
  r'|老师|兄弟|朋友|宝贝)))'
  r'|当然(?:可以)?[。!] *(?:\n|$)|当然可以[,。!]'
  r'|当然啦?[,。!](?=[^\n]*(?:以下|下面|这[是里]|:[*_ ]*(?:\n|$)))'
  r'|[\u4e00-\u9fff]{0,4}(?:祝福语?|祝词|贺词|正文|文案|诗歌?|故事|作品'
  r'|回[复答]|答案):[*_ ]*(?:\n|$)'
)
# Last lines that explain the piece or offer further help.
_AFTER = regex.compile(
  r'(?:i )?hope (?:you (?:like|enjoy)\b(?! the (?:party|trip|day|meal|holiday))'
  r'|this (?:helps|works(?! out)|meets|fits|suits|captures|poem|story|piece))'
  # A guest may be asked whether he can come.
  r'|(?:please )?let me know (?:if you\b(?! (?:can|could|will|are)\b)'
  r'|what you think|how (?:this|it) (?:works|sounds|looks)|your thoughts)'
  r"|(?:do you want me to|if you(?:'d| would) like,? i (?:can|could)) (?:write"
  r'|revise|adjust|change|expand|shorten|rewrite|try)|word count:'
  r'|(?:this (?:poem|story|piece|haiku|limerick|sonnet|scene|speech|version'
  r'|slogan|tagline|caption|sentence|couplet)'
  r'|the (?:poem|haiku|limerick|sonnet)|these (?:lines|verses))'
  r' (?:captures?|explores?|celebrates?|reflects?|uses?|employs?|follows?|aims?'
  r'|evokes?|conveys?|describes?|highlights?|express(?:es)?'
  r'|(?:is|are) (?:meant|intended) to|tries to|try to|seeks? to)\b'
  r'|in this (?:poem|story|piece|haiku|limerick|sonnet|scene),'
  r" (?:the|each|i(?:'ve| have))\b"
  r"|i(?:'ve| have) (?:tried|aimed) to (?:capture|convey|incorporate|include"
  r'|keep (?:it|the|this|to)|follow|use)'
  r'|feel free to (?:ask|edit|adjust|change)'
  r'|would you like (?:me to|another version|any (?:changes|edits))'
  r'|is there anything else (?:you|i)\b|(?:do you )?need any (?:changes|edits)'
  r'|(?:about |approximately |~|total:? )?\d+ (?:words|characters)\W*\Z'
  r'|explanation\b[*_]*:'
  # A gift may be hoped to please.
  r'|希望[你您](?:会|能)?喜欢(?:这[首篇段份个](?:诗|文|作品|故事|祝福|内容)|[!。~]*$)'
  r'|希望(?:这[首篇段]|对[你您]有|能帮|[^\n]{0,12}(?:满意|符合[你您]的))'
  r'|需要我[^\n]{0,20}(?:修改|调整|再写)'
  rf'|以上就?是[^\n]{{0,20}}{_NAME_ZH}|(?:这(?:首诗歌?|[份段]文案)|本诗)'
  r'(?:以|通过|表达|描绘|展现|旨在|运用)'
  # In a letter 如果你需要我，我一直都在, and 请告诉我，花开了没有 are its own.
  r'|如需(?:要)?(?:修改|调整|更改|润色)'
  r'|如果?[你您]?(?:还?(?:有|需要)|想要?)(?:我)?(?:再|继续|(?:为|帮|给)[你您])?'
  r'(?:进一步|其他|更多|任何)?(?:的)?(?:修改|调整|改|润色|换|需求|需要|要求|版本|风格)'
  r'|(?:请|随时|可以)*告诉我(?=[^\n]*(?:修改|调整|要求|需求|风格|细节|更多|版本))'
  r'|(?:说明|解释|注释)[:：]|(?:全文|字数|共)[:：]?[约共]?\d+ ?个?字'
  r'|字数[:：]'
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
