"""Collective traffic and kernels of a compiled program, from its HLO text.

A collective in the body of a loop runs once per iteration.  HLO does not give
the number of iterations: it follows from the limit in the loop's condition and
the increment in its body.  A loop that may end earlier is counted in full.

On a TPU a collective may be split over several fusions, to run asynchronously
beside them, and its instruction then appears in each.  Such parts share a
channel id; the collective runs as often as the part that runs least.
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
# Patterns of HLO text, as in `%name = f32[8,4]{1,0} op(%operand), attribute=…`,
# within computations `%name (parameters) -> shape {`.
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\(')
# Attributes that name the computations which an instruction calls.
_CALLED = re.compile(
  r'\b(?:calls|to_apply|body|condition|branch_computations|'
  r'true_computation|false_computation)=(?:\{([^}]*)\}|(%?[\w.-]+))'
)
_LOOP = re.compile(r' while\(.*\bcondition=%?([\w.-]+), body=%?([\w.-]+)')
# Pallas kernels are custom calls; XLA appends a number to the kernel's name.
_KERNEL = re.compile(
  r'^\s+(?:ROOT )?%?([\w-]+)\S* = .* custom-call\(.*'
  r'custom_call_target="tpu_custom_call"'
)
_CHANNEL = re.compile(r'\bchannel_id=\d+')
# The limit and the increment of a loop are scalar integer constants; its
# counter is an element of the loop's state.
_CONSTANT = re.compile(
  r'%([\w.-]+) = [su](?:8|16|32|64)\[\]\S* constant\((\d+)\)'
)
_COUNTER = re.compile(r' = [su]\d+\[\]\S* get-tuple-element\(.*\), index=(\d+)')
_ROOT = re.compile(r'^\s+ROOT .* tuple\(')
_ARRAY = re.compile(r'\b(pred|bf16|[a-z]\d+)(?:e\d\w*)?\[([\d,]*)\]')


# Name of a TPU fusion of an all-reduce and a slice of its result.  It runs as a
# reduce-scatter, which sends half as many bytes.
_SCATTERING = 'all-reduce-scatter'


class Traffic(NamedTuple):
  """Traffic of one kind of collective over one run of a program."""

  count: int = 0  # on each device
  bytes: float = 0.0  # that each device sends


def collectives(text: str) -> dict[str, Traffic]:
  """Counts the bytes that each device sends, by kind of collective.

  Args:
    text: HLO of a compiled program, `compiled.as_text()`.

  Returns:
    Traffic by kind, without kinds that do not occur.  Bytes are those of the
    algorithms that send least, such as rings for gathers and reductions.
  """
  computations, entry = _computations(text)
  parts: dict[str, tuple[str, float, int]] = {}
  for name, times in _run_counts(computations, entry).items():
    for line in computations[name]:
      kind, size = _bytes_sent(line) or ('', 0.0)
      if not kind:
        continue
      if kind == 'all-reduce' and name.startswith(_SCATTERING):
        kind, size = 'reduce-scatter', size / 2
      # Parts of one collective share a channel; without one, the line is its
      # own key.
      channel = _CHANNEL.search(line)
      key = channel[0] if channel else f'{name}{line}'
      least = min(times, parts[key][2] if key in parts else times)
      parts[key] = kind, size, least
  traffic: dict[str, Traffic] = {}
  for kind, size, times in parts.values():
    before = traffic.get(kind, Traffic())
    traffic[kind] = Traffic(before.count + times, before.bytes + times * size)
  return traffic


def kernels(text: str) -> dict[str, int]:
  """Number of runs of each Pallas kernel on each TPU, by the kernel's name."""
  computations, entry = _computations(text)
  runs: Counter[str] = Counter()
  for name, times in _run_counts(computations, entry).items():
    for line in computations[name]:
      if kernel := _KERNEL.match(line):
        runs[kernel[1]] += times
  return dict(runs)


def array_bytes(shape: str) -> list[int]:
  """Bytes of every array in an HLO shape, such as `(bf16[8,4], f32[])`."""
  sizes = []
  for dtype, dims in _ARRAY.findall(shape):
    # A pred takes a byte; other dtypes have their bits in the name, as in bf16.
    bits = 8 if dtype == 'pred' else int(re.sub(r'\D', '', dtype))
    count = math.prod(int(d) for d in dims.split(',') if d)
    sizes.append(count * bits // 8)
  return sizes


def group_size(line: str) -> int:
  """Number of devices that take part in a collective; 1 if not given.

  HLO has three notations for the groups of devices: explicit lists, an iota
  `[groups,size]`, and axes of a mesh.
  """
  if match := re.search(r'replica_groups=\{\{([\d,]*)\}', line):
    return len(match[1].split(','))
  if match := re.search(r'replica_groups=\[\d+,(\d+)\]', line):
    return int(match[1])
  if match := re.search(
    r'replica_groups=\w+\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}', line
  ):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    # A part of an axis is written as 'axis':(before)size.
    used = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
    return math.prod(int(part or sizes[axis]) for axis, part in used)
  return 1


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Lines of every computation by its name, and the entry's name."""
  computations: dict[str, list[str]] = {}
  entry, lines = '', []
  for line in text.splitlines():
    if opening := _COMPUTATION.match(line):
      lines = computations.setdefault(opening[2], [])
      entry = opening[2] if opening[1] else entry
    else:
      lines.append(line)
  return computations, entry


def _run_counts(computations: dict[str, list[str]], entry: str) -> Counter[str]:
  """Number of runs of each computation, callers before callees."""
  counts: Counter[str] = Counter()

  # HLO has no recursion, so this ends; a computation with several callers is
  # visited once for each, and its runs add up.
  def visit(name: str, times: int) -> None:
    counts[name] += times
    for callee, repeats in _calls(computations[name], computations):
      visit(callee, times * repeats)

  if entry:
    visit(entry, 1)
  return counts


def _calls(
  lines: list[str], computations: dict[str, list[str]]
) -> Iterator[tuple[str, int]]:
  """Yields each computation that these lines call, and how many times."""
  for line in lines:
    repeats = 1
    if match := _LOOP.search(line):
      condition, body = (computations[name] for name in match.groups())
      # Loops from `fori_loop` and `scan` count up from 0 to a constant.
      limit = max(_constants(condition).values(), default=1)
      repeats = -(-limit // _step(condition, body))
    for several, one in _CALLED.findall(line):
      for name in (several or one).split(','):
        if (name := name.strip('% ')) in computations:
          yield name, repeats


def _constants(lines: list[str]) -> dict[str, int]:
  """Values of scalar integer constants by name."""
  pairs = _CONSTANT.findall('\n'.join(lines))
  return {name: int(value) for name, value in pairs}


def _step(condition: list[str], body: list[str]) -> int:
  """Increment of a loop's counter per iteration; 1 where it is unknown."""
  counter = _COUNTER.search('\n'.join(condition))
  root = next((line for line in body if _ROOT.search(line)), None)
  if counter is None or root is None:
    return 1
  # The condition reads the counter at this place of the state; the body's root
  # tuple has the counter's new value there, an addition of a constant.
  operands = re.findall(r'%([\w.-]+)', root.partition(' tuple(')[2])
  name = re.escape(operands[int(counter[1])])
  sum_ = re.search(rf'%{name} = \S+ add\(([^)]*)\)', '\n'.join(body))
  constants = _constants(body)
  added = re.findall(r'%([\w.-]+)', sum_[1]) if sum_ else []
  return next((constants[x] for x in added if constants.get(x)), 1)


def _bytes_sent(line: str) -> tuple[str, float] | None:
  """Kind of a collective and bytes that a device sends; None for other lines.

  An asynchronous collective is counted at its `-start`, whose shape includes
  operands beside results; its `-done` is skipped.
  """
  instruction = _INSTRUCTION.match(line)
  if instruction is None:
    return None
  shape, operation = instruction.groups()
  kind = operation.removesuffix('-start')
  if kind not in KINDS:
    return None
  # A `-start` has scalars of at most 4 bytes for its context: not data.
  sizes = [size for size in array_bytes(shape) if size > 4 or kind == operation]
  if kind != operation and kind != 'all-reduce':
    # Operands first, then results; an asynchronous all-reduce gives results
    # alone.
    sizes = sizes[len(sizes) // 2 :]
  total, devices = sum(sizes), group_size(line)
  share = (devices - 1) / devices
  return kind, {
    'all-gather': share * total,
    'all-reduce': 2 * share * total,
    'reduce-scatter': (devices - 1) * total,
    'all-to-all': share * total,
    'collective-permute': total,
  }[kind]
