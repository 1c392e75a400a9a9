"""What a compiled step moves: between devices (collectives), and between a device's HBM and its cores."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from rllava_jax.planning.hlo import HloProgram, Instruction, called

Kind = Literal["all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "send"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_CHANNEL = re.compile(r"channel_id=(\d+)")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}\s]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=(?:@\w+)?mesh\[([^\]]*)\](?:, device_ids=\((.*?)\)(?= \{))? \{([^}]*)\}")
_DEVICE_IOTA = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")
_SUB_AXIS = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")


@dataclass(frozen=True)
class Collective:
    """The collectives of one kind and reach in a step.

    Attributes:
      slow: whether their groups reach over more than one slice or GPU host.
      count: executions in a step, a scanned layer's counted once a layer.
      bytes: that each device sends, by the ring algorithm: (n - 1) / n of what is gathered or scattered in a group of
        n, twice that for an all-reduce. Between TPU slices XLA sums with sends and receives; what is sent counts.
    """

    kind: Kind
    slow: bool
    count: int
    bytes: float


def collectives(program: HloProgram, *, devices: int, island: int) -> list[Collective]:
    """The step's collectives, summed by kind and reach.

    Args:
      island: devices with consecutive numbers that the fast fabric joins.

    Raises:
      ValueError: replica groups of a form that is not known here.
    """
    counts: Counter[tuple[Kind, bool]] = Counter()
    sums: dict[tuple[Kind, bool], float] = defaultdict(float)
    for kind, instruction, times in _occurrences(program):
        slow, sent = True, instruction.arrays[0].bytes  # of a send
        if kind != "send":
            groups = _groups(instruction.line, devices)
            size = groups.shape[1]
            if size < 2 and kind != "collective-permute":
                continue
            slow, sent = bool((groups // island != groups[:, :1] // island).any()), _sent(kind, instruction, size)
        counts[kind, slow] += times
        sums[kind, slow] += times * sent
    return [Collective(*key, counts[key], sums[key]) for key in sorted(sums)]


def hbm_bytes(program: HloProgram, *, on_chip_spaces: bool) -> float:
    """Bytes that a device reads from and writes to its HBM in a step: operands and results of what is executed.

    A fusion that takes a slice of an operand (a layer's weights out of the stack) is counted with the slice.

    Args:
      on_chip_spaces: arrays in memory spaces above 0 are on the chip (TPU's VMEM), and cost nothing.
    """
    total = 0.0
    for name, times in program.runs.items():
        symbols = {instruction.name: instruction for instruction in program.computations[name]}

        def size(instruction: Instruction) -> float:
            return sum(a.bytes for a in instruction.arrays if not (on_chip_spaces and a.space))

        for instruction in symbols.values():
            if instruction.op in _FREE or instruction.op.endswith("-done"):
                continue
            operands = [symbols[operand] for operand in instruction.operands if operand in symbols]
            inside = program.computations.get((called(instruction) or [""])[0], ())
            total += times * _moved(instruction, operands, inside, size)
    return total


_Size = Callable[[Instruction], float]
_FREE = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
     "partition-id", "replica-id", "iota")
)  # fmt: skip


def _moved(
    instruction: Instruction, operands: Sequence[Instruction], inside: Sequence[Instruction], size: _Size
) -> float:
    if instruction.op == "slice-start":  # the result holds the whole operand beside the slice
        sliced = sum(array.bytes for array in instruction.arrays[len(operands) : -1])
        return sliced + max(0.0, size(instruction) - sum(map(size, operands)))
    if instruction.op.endswith("-start"):  # the result holds the operand too, and either may be on the chip
        return size(instruction)
    if instruction.op in ("dynamic-slice", "gather", "slice"):
        return 2 * size(instruction)
    if instruction.op == "dynamic-update-slice":
        return 2 * size(operands[1]) if len(operands) > 1 else size(instruction)
    if instruction.op != "fusion":
        return size(instruction) + sum(map(size, operands))
    written, read = size(instruction), 0.0
    parameters = {i.name: int(re.search(r"parameter\((\d+)\)", i.line)[1]) for i in inside if i.op == "parameter"}  # type: ignore[index]
    symbols = {i.name: i for i in inside}
    for name, number in parameters.items():
        if number >= len(operands):
            continue
        whole, names = size(operands[number]), _same(name, inside)
        uses = [i for i in inside if i.name not in names and names & set(i.operands)]
        if not (whole and uses):
            read += whole
        elif all(use.op in ("dynamic-slice", "gather") for use in uses):
            read += min(whole, sum(use.bytes for use in uses))
        elif all(use.op == "dynamic-update-slice" and use.operands[0] in names for use in uses):
            # Updated in place: only the update is written.
            update = sum(symbols[use.operands[1]].bytes for use in uses if use.operands[1] in symbols)
            written = max(0.0, written - whole) + update
        else:
            read += whole
    return written + read


def _same(name: str, inside: Sequence[Instruction]) -> set[str]:
    names = {name}
    for instruction in inside:
        if instruction.op in ("bitcast", "reshape") and instruction.operands[0] in names:
            names.add(instruction.name)
    return names


def _occurrences(program: HloProgram) -> Iterator[tuple[Kind, Instruction, int]]:
    """Collectives with how often they run. One that XLA spread over several fusions, to hide it, occurs once."""
    for name, times in program.runs.items():
        seen: set[str] = set()
        for instruction in program.computations[name]:
            for found, scattered in _in_or_under(program, instruction):
                kind = next((known for known in KINDS if found.op.removesuffix("-start") == known), None)
                if kind is None:
                    continue
                channel = _CHANNEL.search(found.line)
                key = f"{kind} {channel[1]}" if channel else found.name
                if key not in seen:
                    seen.add(key)
                    yield "reduce-scatter" if scattered and kind == "all-reduce" else kind, found, times


def _in_or_under(program: HloProgram, instruction: Instruction) -> Iterator[tuple[Instruction, bool]]:
    """The instruction, or what the fusion or asynchronous call that it is holds; and whether XLA for TPU named that
    "all-reduce-scatter", its form of a reduce-scatter."""
    if instruction.op not in ("fusion", "async-start"):
        yield instruction, False
        return
    for callee in called(instruction):
        for inner in program.computations.get(callee, ()):
            for found, scattered in _in_or_under(program, inner):
                yield found, scattered or "all-reduce-scatter" in callee


def _sent(kind: Kind, instruction: Instruction, size: int) -> float:
    arrays = instruction.arrays
    if instruction.op == "all-gather-start":
        arrays = arrays[len(arrays) // 2 :]  # (operands, results)
    elif instruction.op == "collective-permute-start":
        arrays = arrays[1:2]
    result = sum(array.bytes for array in arrays)
    if kind == "collective-permute":
        return result
    if kind == "reduce-scatter":
        whole = result if instruction.op.startswith("all-reduce") else result * size
        return whole * (size - 1) / size
    return result * (size - 1) / size * (2 if kind == "all-reduce" else 1)


def _groups(line: str, devices: int) -> np.ndarray:
    """The groups of devices that exchange, [groups, members]; of a permutation the pairs."""
    if match := _MESH.search(line):
        return _mesh_groups(match[1], match[2], match[3])
    if match := _IOTA.search(line):
        return _iota(match[2], match[3]).reshape(_numbers(match[1]))
    if match := _LISTED.search(line):
        listed = [_numbers(group) for group in re.findall(r"\{([\d,\s]*)\}", match[1])]
        return np.array([group for group in listed if group])
    if "replica_groups={}" in line:
        return np.arange(devices)[None]
    raise ValueError(f"replica groups not understood: {line.strip()[:300]}")


def _mesh_groups(axes: str, ids: str | None, over: str) -> np.ndarray:
    """Groups along axes of a mesh: `mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}`; `'a':(2)2` is a part of a."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    if ids is not None and (match := _DEVICE_IOTA.search(ids)):
        order = _iota(match[1], match[2])
    else:
        order = np.arange(math.prod(sizes.values())) if ids is None else np.array(_numbers(ids))
    # Each axis as what lies before the part that is meant, the part, and what lies after; most often all of it or none.
    wanted = {name: (int(before or 1), int(part or sizes[name])) for name, before, part in _SUB_AXIS.findall(over)}
    parts = [wanted.get(name, (size, 1)) for name, size in sizes.items()]
    dims = [
        n
        for (before, part), size in zip(parts, sizes.values(), strict=True)
        for n in (before, part, size // before // part)
    ]
    places = np.arange(len(dims)).reshape(-1, 3)
    members = math.prod(part for _, part in parts)
    return order.reshape(dims).transpose([*places[:, ::2].flat, *places[:, 1]]).reshape(-1, members)


def _iota(dims: str, order: str | None) -> np.ndarray:
    """Consecutive numbers in an array of these dimensions, transposed where an order is given."""
    ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))
