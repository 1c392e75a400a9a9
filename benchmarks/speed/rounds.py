"""Systems in turn: each lives in a process of its own, and every round times each of them once, in changing order."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rllava_jax.runtime.process_memory import TUNABLES
from speed.setting import Setting

# Logits, losses and decoded tokens of two systems may differ by so much, relative to the largest.
TOLERANCE = 1e-4


def environment(system: str) -> dict[str, str]:
    """Of a system's process: ours has memory as its programs start themselves on a CPU.

    Where this process's environment says how memory is allocated, all systems have the same.
    """
    return ({"GLIBC_TUNABLES": TUNABLES} if system == "rllava_jax" else {}) | os.environ


class Worker:
    """A process that has one task of one system ready."""

    def __init__(self, system: str, folder: Path, setting: Setting, task: str):
        self.system, self.task = system, task
        name = re.sub(r"\W+", "_", f"{system} {task}")
        self.results = folder / "results" / f"{name}.npz"
        self.results.parent.mkdir(parents=True, exist_ok=True)
        here = str(Path(__file__).parents[1])
        paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        self._log = self.results.with_suffix(".log")
        arguments = [system, str(folder), setting.name, str(setting.seed), task, str(self.results)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "speed.worker", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(system) | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"},
            )
        first = self._answer()
        self.ready_seconds: float = first["ready"]

    def time(self, calls: int) -> tuple[float, float]:
        """Seconds of a call, the median of so many, and its processor seconds over all threads."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return float(np.median(answer["seconds"])), answer["processor_seconds"]

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = "\n".join(self._log.read_text().splitlines()[-15:])
            raise RuntimeError(f"{self.system}, {self.task}: the process ended; {self._log} ends in\n{tail}")
        return json.loads(line)


def measure(
    systems: Sequence[str], folder: Path, setting: Setting, task: str, *, rounds: int, seed: int
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each system in every round, and what else is told of the task.

    The first round warms up and is left out. Where one call takes under a fifth of a second a round is several calls,
    and its figure their median.

    Raises:
      RuntimeError: a system failed, or its results are not the first system's.
    """
    workers: list[Worker] = []
    try:
        workers += [Worker(system, folder, setting, task) for system in systems]
        facts = {
            "first_call_seconds": {worker.system: worker.ready_seconds for worker in workers},
            "largest_difference": compare({w.system: dict(np.load(w.results)) for w in workers}, task),
        }
        calls = {w.system: max(1, min(5, round(0.2 / max(w.time(1)[0], 1e-3)))) for w in workers}
        seconds: dict[str, list[float]] = {system: [] for system in systems}
        processor: dict[str, list[float]] = {system: [] for system in systems}
        draw = random.Random(seed)
        for _ in range(rounds):
            for worker in draw.sample(workers, len(workers)):
                taken, used = worker.time(calls[worker.system])
                seconds[worker.system].append(taken)
                processor[worker.system].append(used)
        return seconds, facts | {"processor_seconds": processor}
    finally:
        for worker in workers:
            worker.close()


def compare(results: Mapping[str, Mapping[str, np.ndarray]], task: str) -> float:
    """The largest difference of a system's results from the first system's, relative to the largest of those.

    Of a training step's losses only the first is held to the tolerance: systems place decay and epsilon differently.

    Raises:
      RuntimeError: they compute different things.
    """
    (name, reference), *others = results.items()
    worst = 0.0
    for other, values in others:
        for key, value in values.items():
            expected, found = np.asarray(reference[key], np.float64), np.asarray(value, np.float64)
            if key == "losses":
                expected, found = expected[:1], found[:1]
            if expected.shape != found.shape:
                raise RuntimeError(f"{task}: {key} of {other} is {found.shape}, of {name} {expected.shape}")
            difference = (
                float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12)) if found.size else 0.0
            )
            if difference > TOLERANCE:
                raise RuntimeError(f"{task}: {key} of {other} differs from {name}'s by {difference:.1e} of the largest")
            worst = max(worst, difference)
    return worst
