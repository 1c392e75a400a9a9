"""Bytes per device of a compiled training step, by what they hold."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from rllava_jax.planning.chips import GIB, Chip
from rllava_jax.planning.hlo import HloProgram

_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMGT])\)")
_USED = re.compile(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm")
_WANTED = re.compile(r"(?:allocate|allocating|requires?) ([\d.]+)\s?([KMGT])i?B")
_UNIT = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Memory:
    """Bytes per device.

    Attributes:
      parameters, optimizer: the state, as it is laid out over the mesh.
      inputs: the batch, and what the layout pads.
      gradients: of the parameters that train.
      activations: what the layers keep for the backward pass.
      temporaries: the rest of what XLA allocates while the step runs. XLA shares memory between arrays that do not live
        at the same time, so gradients and activations may in truth overlap with it; their sum is exact.
      program: the machine code.
    """

    parameters: int
    optimizer: int
    inputs: int = 0
    gradients: int = 0
    activations: int = 0
    temporaries: int = 0
    program: int = 0

    @property
    def total(self) -> int:
        """What a device must have."""
        return sum(dataclasses.astuple(self))

    def fits(self, limit: float) -> bool:
        """Whether `limit` GiB are enough."""
        return self.total <= limit * GIB


@dataclass(frozen=True)
class Buffer:
    """Arrays of one shape and origin that the program writes to HBM: how many in its text, and bytes of one."""

    array: str
    op: str
    source: str
    count: int
    bytes: int


def device_bytes(shapes: Any, shardings: Any) -> int:
    """Bytes that one device holds of a pytree of shapes."""
    return sum(
        math.prod(sharding.shard_shape(shape.shape)) * shape.dtype.itemsize
        for shape, sharding in zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    )


def state_memory(abstract: Any, shardings: Any) -> Memory:
    """What the state alone takes: no step needs less.

    Args:
      abstract, shardings: a `training.step.TrainState` of shapes, and one of shardings.
    """
    parameters = device_bytes(abstract.params, shardings.params) + device_bytes(abstract.frozen, shardings.frozen)
    return Memory(parameters, device_bytes(abstract, shardings) - parameters)


def step_memory(stats: Any, state: Memory, *, gradients: int, activations: int, chip: Chip) -> Memory:
    """XLA's memory analysis of a compiled step, by kind.

    Args:
      stats: `Compiled.memory_analysis()`.
      gradients, activations: bytes per device; they are taken out of XLA's temporaries.
    """
    inputs = stats.argument_size_in_bytes - state.parameters - state.optimizer
    # What the step returns beside the state, whose memory it reuses.
    inputs += stats.output_size_in_bytes - stats.alias_size_in_bytes
    gradients = min(gradients, stats.temp_size_in_bytes)
    activations = min(activations, stats.temp_size_in_bytes - gradients)
    rest = stats.temp_size_in_bytes - gradients - activations
    # A GPU's program lies in its driver's memory, which is outside what JAX may use.
    program = stats.generated_code_size_in_bytes if chip.platform == "tpu" else 0
    return Memory(state.parameters, state.optimizer, max(inputs, 0), gradients, activations, rest, program)


def out_of_memory(message: str) -> int | None:
    """The bytes of temporaries that XLA could not place, from its error; None where it is another error. 0: unsaid."""
    if "RESOURCE_EXHAUSTED" not in message and "out of memory" not in message.lower():
        return None
    for pattern in (_TEMPORARIES, _USED, _WANTED):
        if match := pattern.search(message):
            return int(float(match[1]) * _UNIT[match[2]])
    return 0


def kept_activations(jaxpr: Any, *, batch: int, shards: int) -> int:
    """Bytes per device that the forward scans over layers hand to the backward scans.

    Args:
      jaxpr: of the step.
      batch: examples of a micro-batch, over all devices; shards: devices that the batch is sharded over.
    """
    total = 0.0
    for scan, followers in _scans(jaxpr):
        for variable in scan.outvars[scan.params["num_carry"] :]:
            if any(variable in later.invars for later in followers if later.params["reverse"]):
                shape = variable.aval.shape
                # Merged axes (batch and position) are multiples of the batch.
                sharded = any(size and size % batch == 0 for size in shape[1:])
                total += math.prod(shape) * variable.aval.dtype.itemsize / (shards if sharded else 1)
    return int(total)


def _scans(jaxpr: Any) -> Iterable[tuple[Any, list[Any]]]:
    """Every scan of a program and those after it in the same block, outermost first."""
    inside = getattr(jaxpr, "jaxpr", jaxpr)
    scans = [equation for equation in inside.eqns if equation.primitive.name == "scan"]
    for number, scan in enumerate(scans):
        yield scan, scans[number + 1 :]
    for equation in inside.eqns:
        for inner in jaxprs_in_params(equation.params):
            yield from _scans(inner)


def largest_buffers(program: HloProgram, *, on_chip_spaces: bool, most: int = 12) -> list[Buffer]:
    """The largest arrays that the step writes to HBM, by shape and origin."""
    free = ("parameter", "get-tuple-element", "tuple", "bitcast", "while", "constant", "conditional", "call")
    found = Counter(
        (array.text, instruction.op, instruction.source, int(array.bytes))
        for name in program.runs
        for instruction in program.computations[name]
        if instruction.op not in free and not instruction.op.endswith("-done")
        for array in instruction.arrays
        if not (on_chip_spaces and array.space)
    )
    ordered = sorted(found.items(), key=lambda item: -item[0][3])[:most]
    return [Buffer(array, op, source, count, size) for (array, op, source, size), count in ordered]
