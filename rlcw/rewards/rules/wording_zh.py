"""Chinese wordings of each rule, as sentences in a brief; see `wording_en`."""

# 字 may include punctuation or not, so this must be stated: `length:words` does
# not count it, `length:characters` does.
_WORDS = (
  '{amount}个字（标点不计入）。',
  '全文{amount}个字，标点不算。',
  '字数要求：{amount}个字（不含标点）。',
)
_SENTENCES = (
  '{amount}句话。',
  '全文{amount}句话。',
  '句数要求：{amount}句话。',
)
WORDINGS = {
  'length:words': _WORDS,
  'length:characters': (
    '{amount}个字（标点计入）。',
    '全文{amount}个字，标点也算。',
    '字数要求：{amount}个字（含标点）。',
  ),
  'length:sentences': _SENTENCES,
  'length:paragraphs': (
    '{amount}段（段与段之间空一行）。',
    '全文{amount}段，段间空一行。',
    '分段要求：{amount}段，每两段之间空一行。',
  ),
  'length:lines': (
    '{amount}行（空行不计入）。',
    '全文{amount}行，空行不算。',
    '行数要求：{amount}行（不含空行）。',
  ),
  'length_constraints:number_words': _WORDS,
  'length_constraints:number_sentences': _SENTENCES,
  'length_constraints:number_paragraphs': (
    '正好写{num_paragraphs}段，每两段之间单独一行写***。',
    '全文恰好{num_paragraphs}段，段与段之间用单独一行***隔开。',
    '分成{num_paragraphs}段，不多不少，每两段之间放一行***。',
  ),
  'length_constraints:nth_paragraph_first_word': (
    '正好写{num_paragraphs}段（段与段之间空一行），第{nth_paragraph}段以'
    '“{first_word}”开头。',
    '全文恰好{num_paragraphs}段，段间空一行，其中第{nth_paragraph}段的开头是'
    '“{first_word}”。',
    '分成{num_paragraphs}段，不多不少，每两段之间空一行；第{nth_paragraph}段要'
    '从“{first_word}”写起。',
  ),
  'keywords:existence': (
    '用到这些词：{words}。',
    '文中须出现{words}。',
    '要把这些词写进去：{words}。',
  ),
  'keywords:frequency': (
    '“{keyword}”一词出现{amount}次。',
    '“{keyword}”一词的出现次数：{amount}次。',
    '全文出现“{keyword}”{amount}次。',
  ),
  'keywords:forbidden_words': (
    '不要用这些词：{words}。',
    '文中不得出现{words}。',
    '避开这些词：{words}。',
  ),
  'keywords:letter_frequency': (
    '字符“{letter}”出现{amount}次。',
    '字符“{letter}”的出现次数：{amount}次。',
    '全文出现字符“{letter}”{amount}次。',
  ),
  'startend:start_checker': (
    '以“{start_phrase}”开头。',
    '开头须是“{start_phrase}”。',
    '从“{start_phrase}”写起。',
  ),
  'startend:end_checker': (
    '以“{end_phrase}”结尾。',
    '结尾须是“{end_phrase}”。',
    '最后用“{end_phrase}”收尾。',
  ),
  'startend:quotation': (
    '全文用双引号括起来。',
    '整篇放在一对双引号里。',
    '开头和结尾加上双引号，把全文括住。',
  ),
  'punctuation:no_comma': (
    '不要用逗号。',
    '文中不得出现逗号。',
    '一个逗号也别用。',
  ),
  'punctuation:no_exclamation': (
    '不要用感叹号。',
    '文中不得出现感叹号。',
    '一个感叹号也别用。',
  ),
  'punctuation:no_emoji': (
    '不要用表情符号。',
    '文中不得出现表情符号。',
    '一个表情符号也别用。',
  ),
  'detectable_format:json_format': (
    '全文须是合法的JSON。',
    '整篇写成合法的JSON。',
    '只输出合法的JSON，别的都不要写。',
  ),
  'detectable_format:number_bullet_lists': (
    '正好列出{num_bullets}个以“- ”开头的要点。',
    '要点恰好{num_bullets}个，各占一行，都以“- ”开头。',
    '列出{num_bullets}个要点，不多不少，每个要点另起一行，行首写“- ”。',
  ),
  'detectable_format:title': (
    # Chinese titles are marked by 《》; the check accepts these and << >>.
    '写出标题，用《》括起。',
    '须有标题，放在《》里。',
    '加一个标题，并用《》括住。',
  ),
  'detectable_format:number_highlighted_sections': (
    '至少用*星号*标出{num_highlights}处。',
    '用*星号*标出的文字不少于{num_highlights}处。',
    '至少选{num_highlights}处文字，用*星号*括住，以示突出。',
  ),
  'detectable_format:multiple_sections': (
    '至少写{num_sections}节，节首依次标明“{section_spliter} 1”等。',
    '全文不少于{num_sections}节，各节开头按顺序标上“{section_spliter} 1”等。',
    '至少分成{num_sections}节，每节开头写明编号，如“{section_spliter} 1”。',
  ),
  'detectable_format:constrained_response': (
    '原样用{answers}作答。',
    '回答须原样含有{answers}，只能选其中一个。',
    '从{answers}中选一个，原样作答。',
  ),
  'detectable_content:number_placeholders': (
    '至少留{num_placeholders}处用方括号表示的占位符，如[地址]。',
    '方括号占位符不少于{num_placeholders}处，例如[姓名]。',
    '至少留出{num_placeholders}处空白待填，用方括号表示，如[日期]。',
  ),
  'detectable_content:postscript': (
    '文末另起一行，以{postscript_marker}开头写附言。',
    '文末须有附言，另起一行，行首写{postscript_marker}。',
    '正文写完后换行，用{postscript_marker}引出一段附言。',
  ),
  'combination:two_responses': (
    '写出两个不同的回答，中间单独一行写******。',
    '给出两种不一样的回答，用单独一行******隔开。',
    '回答两次，内容不能相同，两次之间放一行******。',
  ),
  'combination:repeat_prompt': (
    '先一字不差地重复以下要求，再作答：“{prompt_to_repeat}”。',
    '作答之前，须把这段要求原样写一遍：“{prompt_to_repeat}”。',
    '开头照抄下面的要求，一字不改，然后作答：“{prompt_to_repeat}”。',
  ),
  'change_case:english_lowercase': (
    '英文字母全部小写。',
    '文中的英文字母须全是小写。',
    '英文字母一律用小写，不用大写。',
  ),
  'change_case:english_capital': (
    '英文字母全部大写。',
    '文中的英文字母须全是大写。',
    '英文字母一律用大写，不用小写。',
  ),
  'change_case:capital_word_frequency': (
    '全大写的英文单词{amount}个。',
    '全大写的英文单词数量：{amount}个。',
    '字母全部大写的英文单词：{amount}个。',
  ),
  'language:response_language': (
    '用{language}写。',
    '全文须用{language}。',
    '请用{language}来写。',
  ),
  'poem:clauses': (
    '正好写{num_lines}句，每句{num_characters}个汉字。',
    '全诗恰好{num_lines}句，每句都是{num_characters}个汉字。',
    '一共{num_lines}句，不多不少，每句{num_characters}个汉字。',
  ),
  'poem:haiku': (
    '写一首俳句：三行，依次为5、7、5个音节。',
    '须写成俳句，三行的音节数依次是5、7、5。',
    '用俳句的形式写三行，分别为5、7、5个音节。',
  ),
  'poem:rhyme': (
    '各行按{scheme}押韵（X不必押韵）。',
    '韵式须为{scheme}，标X的行可以不押韵。',
    '每行的韵脚按{scheme}安排，X表示不必押韵。',
  ),
  'poem:acrostic': (
    '写成藏头诗，各行首字连成“{letters}”。',
    '须写成藏头诗，从上往下读，各行首字是“{letters}”。',
    '写一首藏头诗，把“{letters}”逐字藏在各行开头。',
  ),
  'style:no_self_reference': (
    '不要提到自己是人工智能。',
    '文中不得说自己是人工智能。',
    '别提自己是AI。',
  ),
  'style:piece_alone': (
    '只写作品本身，前后不加任何说明。',
    '除作品外不得有别的内容，前后都不要说明。',
    '直接给出作品，不要开场白，也不要解释。',
  ),
  'style:no_cliche': (
    '不要用陈词滥调。',
    '文中不得有陈词滥调。',
    '避开陈词滥调。',
  ),
  'style:no_repeated_line': (
    '任何一行都不要重复。',
    '不得有内容相同的两行。',
    '每一行都要和别的行不同。',
  ),
  'style:script': (
    '用{script}字写。',
    '全文须用{script}中文。',
    '只用{script}汉字来写。',
  ),
  'soft:demand': (
    # A demand is a sentence already, so the default is the text itself.
    '{demand}',
    '另外，{demand}',
    '还有一点：{demand}',
  ),
}
