"""Pages in a browser: on a phone and a desk, in light and dark, on paper."""

import base64
import json
import pathlib
import shutil
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from rlcw.tasks.report import run
from tests.tasks import compare_page_test, report_test

pytestmark = pytest.mark.slow
FLAGS = (
  'headless',
  'no-sandbox',
  'disable-gpu',
  'no-first-run',
  'disable-background-networking',
  'disable-component-update',
  'disable-sync',
)
# Elements that reach over the right edge, but for those that scroll by
# themselves.
OVERFLOWING = """
return [...document.querySelectorAll('body *')].filter(each =>
  each.getBoundingClientRect().right > innerWidth + 1
  && !each.closest('.scroll')).map(each => each.outerHTML.slice(0, 200))
"""
SHOWN = """
return [...document.querySelectorAll('img')].every(each => each.naturalWidth)
"""
CONTRAST = """
const rgb = colour => colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
const light = colour => {
  const [r, g, b] = rgb(colour).map(c => c / 255).map(
    c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  return 0.2126 * r + 0.7152 * g + 0.0722 * b
}
const paper = light(getComputedStyle(document.body).backgroundColor)
const found = ['body', '.verdict', '.soft', '.cut', '.base', '.trained', 'a']
return found.flatMap(name => {
  const each = document.querySelector(name)
  if (!each) return []
  const ink = light(getComputedStyle(each).color)
  return [[name, (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05)]]
})
"""


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
  webdriver = pytest.importorskip('selenium.webdriver')
  programs = shutil.which('chromium'), shutil.which('chromedriver')
  if None in programs:
    pytest.skip('needs chromium and chromium-driver')
  options = webdriver.ChromeOptions()
  options.binary_location = programs[0]
  profile = tmp_path_factory.mktemp('profile')
  for flag in (*FLAGS, f'user-data-dir={profile}'):
    options.add_argument(f'--{flag}')
  options.set_capability(
    'goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'}
  )
  driver = webdriver.Chrome(
    options=options, service=webdriver.ChromeService(programs[1])
  )
  yield driver
  driver.quit()


@pytest.fixture(scope='module')
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
  """A report and a comparison, whose names and texts are hard to lay out."""
  folder = tmp_path_factory.mktemp('pages')
  config = report_test.make_runs(folder)
  path = folder / 'evaluate/evaluation.jsonl'
  briefs = [json.loads(line) for line in path.read_text().splitlines()]
  briefs[0] |= dict.fromkeys(('brief_id', 'genre', 'prompt'), 'long' * 200)
  briefs[0]['rules'] = ['w' * 300] * 2
  briefs[1] |= dict.fromkeys(('brief_id', 'genre'), '\u202eשלום')
  for reply in briefs[0]['base']:
    reply['text'] = 'unbroken' * 200
  report_test._write_lines(path, briefs)
  report_test._edit(
    folder / 'grpo/config.json', **{'k' * 200: 'v' * 400, 'model': '/x' * 200}
  )
  run.run(config, folder / 'report')
  names = ('rlmr', 'linear_1', *compare_page_test.HARD)
  compare_page_test.write(folder / 'compare', names)
  return {name: folder / name / 'report.html' for name in ('report', 'compare')}


def _open(browser: Any, page: pathlib.Path, width: int, scheme: str) -> None:
  browser.get('about:blank')
  for kind in ('browser', 'performance'):
    browser.get_log(kind)  # those of earlier pages
  for command, arguments in (
    (
      'setDeviceMetricsOverride',
      {
        'width': width,
        'height': 844,
        'deviceScaleFactor': 1,
        'mobile': width < 600,
      },
    ),
    (
      'setEmulatedMedia',
      {'features': [{'name': 'prefers-color-scheme', 'value': scheme}]},
    ),
  ):
    browser.execute_cdp_cmd(f'Emulation.{command}', arguments)
  browser.get(page.as_uri())


def _requests(browser: Any) -> set[str]:
  """Schemes of the addresses that a page asked for."""
  events = [
    json.loads(entry['message'])['message']
    for entry in browser.get_log('performance')
  ]
  return {
    urllib.parse.urlsplit(event['params']['request']['url']).scheme
    for event in events
    if event['method'] == 'Network.requestWillBeSent'
  }


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [320, 390, 1280])
@pytest.mark.parametrize('name', ['report', 'compare'])
def test_a_page_fits_and_is_quiet(
  browser: Any,
  pages: dict[str, pathlib.Path],
  name: str,
  width: int,
  scheme: str,
) -> None:
  _open(browser, pages[name], width, scheme)
  overflow = browser.execute_script(OVERFLOWING)
  assert overflow == []
  assert (
    browser.execute_script('return document.documentElement.scrollWidth')
    <= width
  )
  assert browser.execute_script(SHOWN)
  assert browser.get_log('browser') == []
  assert _requests(browser) <= {'file', 'data'}
  # WCAG's least contrast of text
  for element, contrast in browser.execute_script(CONTRAST):
    assert contrast >= 4.5, element
  dark = browser.execute_script(
    'return matchMedia("(prefers-color-scheme: dark)").matches'
  )
  assert dark == (scheme == 'dark')


@pytest.mark.parametrize('name', ['report', 'compare'])
def test_a_page_is_printed_in_black_on_white(
  browser: Any, pages: dict[str, pathlib.Path], name: str
) -> None:
  _open(browser, pages[name], 1280, 'dark')
  dark = [{'name': 'prefers-color-scheme', 'value': 'dark'}]
  browser.execute_cdp_cmd(
    'Emulation.setEmulatedMedia', {'media': 'print', 'features': dark}
  )
  colour = 'return getComputedStyle(document.body).backgroundColor'
  assert browser.execute_script(colour) == 'rgb(255, 255, 255)'
  figure = 'return getComputedStyle(document.querySelector("img")).filter'
  assert browser.execute_script(figure) == 'none'
  pdf = browser.execute_cdp_cmd('Page.printToPDF', {})
  assert base64.b64decode(pdf['data']).startswith(b'%PDF')
