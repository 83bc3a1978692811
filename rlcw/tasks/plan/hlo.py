"""What a compiled program sends and which kernels it runs, from its HLO text.

A collective in the body of a loop runs as often as the loop turns.  That is
said nowhere: the loop's condition has the limit, its body what is added to the
counter.  A loop that may end earlier is counted in full.

On a TPU a collective may be spread over several fusions, so as to run beside
them, and its instruction then stands in each: it is known by its channel, and
runs as often as the part that runs least.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

KINDS = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\(')
_CALLED = re.compile(
  r'\b(?:calls|to_apply|body|condition|branch_computations|'
  r'true_computation|false_computation)=(?:\{([^}]*)\}|(%?[\w.-]+))'
)
_LOOP = re.compile(r' while\(.*\bcondition=%?([\w.-]+), body=%?([\w.-]+)')
_KERNEL = re.compile(
  r'^\s+(?:ROOT )?%?([\w-]+)\S* = .* custom-call\(.*'
  r'custom_call_target="tpu_custom_call"'
)
_CHANNEL = re.compile(r'\bchannel_id=\d+')
_CONSTANT = re.compile(
  r'%([\w.-]+) = [su](?:8|16|32|64)\[\]\S* constant\((\d+)\)'
)
_COUNTER = re.compile(r' = [su]\d+\[\]\S* get-tuple-element\(.*\), index=(\d+)')
_ROOT = re.compile(r'^\s+ROOT .* tuple\(')
_ARRAY = re.compile(r'\b(pred|bf16|[a-z]\d+)(?:e\d\w*)?\[([\d,]*)\]')


# a fusion of a TPU that keeps only a part of the sum, and makes no more
_SCATTERING = 'all-reduce-scatter'


class Traffic(NamedTuple):
  """One kind of collective, over a whole run of a program."""

  count: int = 0  # on each device
  bytes: float = 0.0  # that each device sends


def collectives(text: str) -> dict[str, Traffic]:
  """Counts what each device sends, by kind of collective.

  Args:
    text: of a compiled program, `compiled.as_text()`.

  Returns:
    Traffic by kind, without kinds that do not occur.  Bytes are those of the
    algorithms that send least: rings for gathers and reductions.
  """
  computations, entry = _computations(text)
  parts: dict[str, tuple[str, float, int]] = {}
  for name, times in _turns(computations, entry).items():
    for line in computations[name]:
      kind, size = _sent(line) or ('', 0.0)
      if not kind:
        continue
      if kind == 'all-reduce' and name.startswith(_SCATTERING):
        kind, size = 'reduce-scatter', size / 2
      channel = _CHANNEL.search(line)
      key = channel[0] if channel else f'{name}{line}'
      least = min(times, parts[key][2] if key in parts else times)
      parts[key] = kind, size, least
  found: dict[str, Traffic] = {}
  for kind, size, times in parts.values():
    before = found.get(kind, Traffic())
    found[kind] = Traffic(before.count + times, before.bytes + times * size)
  return found


def kernels(text: str) -> dict[str, int]:
  """How often each kernel written by hand runs on each TPU, by its name."""
  computations, entry = _computations(text)
  found: Counter[str] = Counter()
  for name, times in _turns(computations, entry).items():
    for line in computations[name]:
      if kernel := _KERNEL.match(line):
        found[kernel[1]] += times
  return dict(found)


def array_bytes(shape: str) -> list[int]:
  """Bytes of every array that an HLO shape names."""
  sizes = []
  for dtype, dims in _ARRAY.findall(shape):
    bits = 8 if dtype == 'pred' else int(re.sub(r'\D', '', dtype))
    count = math.prod(int(d) for d in dims.split(',') if d)
    sizes.append(count * bits // 8)
  return sizes


def group_size(line: str) -> int:
  """How many devices take part in a collective; 1 where it does not say."""
  if found := re.search(r'replica_groups=\{\{([\d,]*)\}', line):
    return len(found[1].split(','))
  if found := re.search(r'replica_groups=\[\d+,(\d+)\]', line):
    return int(found[1])
  if found := re.search(
    r'replica_groups=\w+\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}', line
  ):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
    # part of an axis is written as 'axis':(before)size
    used = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
    return math.prod(int(part or sizes[axis]) for axis, part in used)
  return 1


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  computations: dict[str, list[str]] = {}
  entry, lines = '', []
  for line in text.splitlines():
    if opening := _COMPUTATION.match(line):
      lines = computations.setdefault(opening[2], [])
      entry = opening[2] if opening[1] else entry
    else:
      lines.append(line)
  return computations, entry


def _turns(computations: dict[str, list[str]], entry: str) -> Counter[str]:
  """How often each computation runs, callers before those they call."""
  turns: Counter[str] = Counter()

  def visit(name: str, times: int) -> None:
    turns[name] += times
    for callee, repeats in _calls(computations[name], computations):
      visit(callee, times * repeats)

  if entry:
    visit(entry, 1)
  return turns


def _calls(
  lines: list[str], computations: dict[str, list[str]]
) -> Iterator[tuple[str, int]]:
  for line in lines:
    repeats = 1
    if found := _LOOP.search(line):
      condition, body = (computations[name] for name in found.groups())
      limit = max(_constants(condition).values(), default=1)
      repeats = -(-limit // _step(condition, body))
    for several, one in _CALLED.findall(line):
      for name in (several or one).split(','):
        if (name := name.strip('% ')) in computations:
          yield name, repeats


def _constants(lines: list[str]) -> dict[str, int]:
  found = _CONSTANT.findall('\n'.join(lines))
  return {name: int(value) for name, value in found}


def _step(condition: list[str], body: list[str]) -> int:
  """What a loop adds to its counter at each turn; 1 where it is not plain."""
  counter = _COUNTER.search('\n'.join(condition))
  root = next((line for line in body if _ROOT.search(line)), None)
  if counter is None or root is None:
    return 1
  operands = re.findall(r'%([\w.-]+)', root.partition(' tuple(')[2])
  name = re.escape(operands[int(counter[1])])
  sum_ = re.search(rf'%{name} = \S+ add\(([^)]*)\)', '\n'.join(body))
  constants = _constants(body)
  added = re.findall(r'%([\w.-]+)', sum_[1]) if sum_ else []
  return next((constants[x] for x in added if constants.get(x)), 1)


def _sent(line: str) -> tuple[str, float] | None:
  """The kind and the bytes of a collective, `None` of other lines.

  `-start` names its operands with its results, `-done` is the same once more.
  """
  instruction = _INSTRUCTION.match(line)
  if instruction is None:
    return None
  shape, operation = instruction.groups()
  kind = operation.removesuffix('-start')
  if kind not in KINDS:
    return None
  sizes = [size for size in array_bytes(shape) if size > 4 or kind == operation]
  if kind != operation and kind != 'all-reduce':
    sizes = sizes[len(sizes) // 2 :]
  whole, devices = sum(sizes), group_size(line)
  share = (devices - 1) / devices
  return kind, {
    'all-gather': share * whole,
    'all-reduce': 2 * share * whole,
    'reduce-scatter': (devices - 1) * whole,
    'all-to-all': share * whole,
    'collective-permute': whole,
  }[kind]
