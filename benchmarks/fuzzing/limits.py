"""Runs cases in a process that is ended where one takes too long or too much memory, and goes on with the next."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

from fuzzing.cases import HANG, MEMORY, Row, Worker, quiet_libraries
from fuzzing.targets import Target

_PAGE = os.sysconf("SC_PAGE_SIZE")
_START = 300.0  # seconds for a process to import what it needs and to read a target's undamaged inputs

_END = 2.0


@dataclass(frozen=True)
class Limits:
    """What a case may take."""

    seconds: float = 20.0
    memory: int = 2 << 30  # bytes, beyond what the process held before


def rows(
    make_targets: Callable[[], Sequence[Target]], scratch: Path, *, seed: int, first: int, limits: Limits
) -> Iterator[Row]:
    """The rows of the cases from `first` on, without end.

    Args:
      make_targets: a function that a new process can import.
      scratch: a folder for inputs and cases.

    Raises:
      RuntimeError: a process ended by itself, or could not read a target's undamaged inputs.
    """
    case = first
    while True:
        context = multiprocessing.get_context("spawn")
        ours, its = context.Pipe()
        process = context.Process(target=_serve, args=(make_targets, scratch, seed, its))
        process.start()
        its.close()
        try:
            while True:
                row = _one(ours, process.pid or 0, case, limits)
                yield row
                case += 1
                if row.outcome in (HANG, MEMORY):
                    break
        finally:
            ours.close()  # which ends a process that waits for the next case
            process.join(_END)
            process.kill()
            process.join()


def _serve(make_targets: Callable[[], Sequence[Target]], scratch: Path, seed: int, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with quiet_libraries():
        Worker(make_targets(), scratch, seed).serve(connection)


def _one(connection: Connection, process: int, case: int, limits: Limits) -> Row:
    connection.send(case)
    if not connection.poll(_START):
        raise RuntimeError(f"case {case}: its inputs were not read within {_START:.0f} s")
    try:
        row: Row = connection.recv()
        before, begun = _resident(process), time.monotonic()
        while not connection.poll(0.05):
            seconds = time.monotonic() - begun
            if seconds > limits.seconds:
                return replace(row, outcome=HANG, said=f"longer than {limits.seconds:.0f} s", seconds=round(seconds, 1))
            if (grown := _resident(process) - before) > limits.memory:
                return replace(row, outcome=MEMORY, said=f"{grown / 2**30:.1f} GiB more", seconds=round(seconds, 1))
        return connection.recv()
    except EOFError:
        raise RuntimeError(f"case {case}: the process ended; see it with --case {case}") from None


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):  # it ended a moment ago
        return 0
