"""Reading a compiled program's text: its computations, how often each of them runs, and the sizes of its arrays.

XLA's own cost analysis counts the body of a loop once. A scanned stack of layers is a loop, so whatever a layer moves
must be multiplied by the loop's trip count, which XLA writes beside it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_WIDTH = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](\{[^{}]*\})?")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")
_NAME = re.compile(r"%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLS = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_OP_NAME = re.compile(r'op_name="([^"]*)"')


@dataclass(frozen=True)
class Array:
    """One array of a type: type and dimensions, bytes, and the memory space that its layout names (0 is HBM)."""

    text: str
    bytes: float
    space: int


@dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    op: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    line: str = field(repr=False)

    @property
    def bytes(self) -> float:
        """Of the whole result, wherever it lies."""
        return sum(array.bytes for array in self.arrays)

    @property
    def source(self) -> str:
        """The operation of the JAX program that it comes from, where XLA knows it."""
        match = _OP_NAME.search(self.line)
        return match[1] if match else ""


@dataclass(frozen=True)
class HloProgram:
    """A compiled program.

    Attributes:
      computations: instructions by computation.
      runs: how often a step executes each computation that is executed as such (the entry, loop bodies, branches), and
        not merely called by a fusion or a reduction.
    """

    computations: Mapping[str, tuple[Instruction, ...]]
    runs: Mapping[str, int]


def arrays_of(text: str) -> tuple[Array, ...]:
    """The arrays that an HLO type is made of: `f32[8,128]{1,0:T(8,128)S(1)}`, or a tuple of such."""
    found = []
    for dtype, dims, layout in _ARRAY.findall(text):
        if dtype not in _WIDTH and not dtype.startswith("f8"):
            continue  # a token or an opaque handle
        size = math.prod(int(size) for size in dims.split(",") if size) * _WIDTH.get(dtype, 1)
        space = re.search(r"S\((\d+)\)", layout)
        found.append(Array(f"{dtype}[{dims}]", size, int(space[1]) if space else 0))
    return tuple(found)


def called(instruction: Instruction) -> list[str]:
    """The computations that an instruction names."""
    branches = " ".join(_BRANCHES.findall(instruction.line))
    return [*_CALLS.findall(instruction.line), *_NAME.findall(branches)]


def parse_program(text: str, *, unbounded: int = 1) -> HloProgram:
    """Reads `Compiled.as_text()`.

    Args:
      unbounded: how often loops run whose end the program itself computes.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, tuple[Instruction, ...]] = {}
    entry, current = "", ""
    lines: list[Instruction] = []
    for line in text.splitlines():
        if not line.startswith(" ") and (header := _HEADER.match(line)):
            current, lines = header[2], []
            entry = current if header[1] else entry
        elif line.startswith("}") and current:
            computations[current] = tuple(lines)
            current = ""
        elif current and (instruction := _parse_instruction(line)):
            lines.append(instruction)
    if not entry:
        raise ValueError("the compiled program's text has no ENTRY computation")
    runs: dict[str, int] = {}
    _count_runs(computations, entry, 1, runs, unbounded)
    return HloProgram(computations, runs)


def _parse_instruction(line: str) -> Instruction | None:
    match = _INSTRUCTION.match(line)
    if match is None:
        return None
    rest = line[match.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opening = rest.find("(")
    if opening < 0:
        return None
    operands = rest[opening : _closing(rest, opening) + 1]
    return Instruction(match[1], rest[:opening], arrays_of(kind), tuple(_NAME.findall(operands)), line)


def _closing(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return len(text) - 1


def _count_runs(
    computations: Mapping[str, tuple[Instruction, ...]], name: str, times: int, runs: dict[str, int], unbounded: int
) -> None:
    runs[name] = runs.get(name, 0) + times
    for instruction in computations.get(name, ()):
        if instruction.op in ("while", "call", "conditional"):
            trips = _trips(computations, instruction, unbounded) if instruction.op == "while" else 1
            for callee in called(instruction):
                if callee in computations:
                    _count_runs(computations, callee, times * trips, runs, unbounded)


def _trips(computations: Mapping[str, tuple[Instruction, ...]], loop: Instruction, unbounded: int) -> int:
    """How often a loop's body runs: as XLA notes it, or the bound of a scan's counter, which starts from 0."""
    if known := _TRIPS.search(loop.line):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    bounds = {
        int(match[1])
        for instruction in computations.get(condition[1] if condition else "", ())
        if instruction.op == "constant" and (match := re.search(r"constant\((\d+)\)", instruction.line))
    }
    return bounds.pop() if len(bounds) == 1 else unbounded
