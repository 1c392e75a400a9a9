"""One case: a file is damaged, the command reads it, and what came out is judged.

A case is a function of the seed and its number alone. It runs in a process of its own kind, `Worker`, which its parent
ends where it takes too long or too much memory.
"""

import contextlib
import importlib
import io
import os
import random
import re
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from fuzzing.mutations import MUTATIONS, chosen
from fuzzing.targets import Read, Target, files, image_outside

# The outcomes that are well, and those that are faults.
REFUSED, ACCEPTED = "refused", "accepted"
TRACEBACK, HANG, MEMORY, WRONG_SUCCESS, UNCLEAR = "traceback", "hang", "memory", "wrong success", "unclear"
FAULTS = (TRACEBACK, HANG, MEMORY, WRONG_SUCCESS, UNCLEAR)
# Exit codes of an error that a user can fix; see data_pipelines/core/exit_codes.py.
_REFUSALS = (2, 3)
_OUTSIDE = "outside"
# An exception's name in place of words: ours end a line in a code, and need none.
_EXCEPTION = re.compile(r"\b[A-Z][a-z]+[A-Za-z]*(Error|Exception)\b")


@dataclass(frozen=True)
class Row:
    """What came out of a case."""

    seed: int
    case: int
    target: str
    file: str
    mutations: Sequence[str]
    outcome: str
    code: str = ""
    said: str = ""
    seconds: float = 0.0

    def as_json(self) -> dict[str, object]:
        """Without what is empty."""
        return {name: value for name, value in asdict(self).items() if value != ""}


@dataclass(frozen=True)
class Drawn:
    """Which file of which target is damaged, and how."""

    target: Target
    file: str
    mutations: tuple[str, ...]
    content: bytes


def draw(targets: Sequence[Target], inputs: Path, seed: int, case: int) -> Drawn:
    """The case of a number; `inputs` has a folder of undamaged inputs for each target."""
    (target,) = random.Random(f"{seed}:{case}").choices(targets, [target.share for target in targets])
    rng = random.Random(f"{seed}:{case}:{target.name}")  # so that the damage does not depend on the other targets
    file = rng.choice(files(target, inputs / target.name / "in"))
    content = (inputs / target.name / "in" / file).read_bytes()
    names = []
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        name = chosen(content, rng)
        content = MUTATIONS[name](content, rng)
        names.append(name)
    return Drawn(target, file, tuple(names), content)


class Worker:
    """Runs cases one after another, in a process that may be ended at any moment."""

    def __init__(self, targets: Sequence[Target], scratch: Path, seed: int) -> None:
        self._targets, self._scratch, self._seed = targets, scratch, seed
        self._inputs = scratch / "undamaged"
        self._said: dict[str, str] = {}
        self._opened: list[str] | None = None
        self._shows = False
        sys.addaudithook(self._notice)

    def serve(self, connection: Connection) -> None:
        """Answers each number with a row that has no outcome yet, as the case begins, and with its row."""
        with contextlib.suppress(EOFError):
            while True:
                case = connection.recv()
                drawn = self.prepared(case)
                connection.send(Row(self._seed, case, drawn.target.name, drawn.file, drawn.mutations, ""))
                connection.send(self.run(case, drawn))

    def again(self, case: int) -> Row:
        """One case, with what the command says on the terminal."""
        self._shows = True
        return self.run(case, self.prepared(case))

    def prepared(self, case: int) -> Drawn:
        """Draws the case; its target's undamaged inputs are read once in each process, which is not measured."""
        for target in self._targets:
            if not (self._inputs / target.name / "in").exists():
                self._make(target)
        drawn = draw(self._targets, self._inputs, self._seed, case)
        if drawn.target.name not in self._said:
            folder = self._scratch / f"reading-{os.getpid()}"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self._inputs / drawn.target.name / "in", folder / "in")
            status, said, err = self._command(drawn.target, folder)
            if status != 0:
                raise RuntimeError(f"{drawn.target.name} refuses its undamaged inputs: {err}")
            if not (self._inputs / drawn.target.name / "out").exists() and (folder / "out").exists():
                shutil.move(folder / "out", self._inputs / drawn.target.name / "out")
            self._said[drawn.target.name] = said
        return drawn

    def _make(self, target: Target) -> None:
        making = self._inputs / target.name / "making"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        target.make(making)
        making.rename(making.with_name("in"))

    def run(self, case: int, drawn: Drawn) -> Row:
        """Runs one case in a folder of its own, which is removed."""
        folder = self._scratch / f"case-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        undamaged = self._inputs / drawn.target.name
        shutil.copytree(undamaged / "in", folder / "in")
        (folder / "in" / drawn.file).write_bytes(drawn.content)
        image_outside(folder / _OUTSIDE)
        begun = time.monotonic()
        self._opened = []
        try:
            status, said, err = self._command(drawn.target, folder)
            opened = [path for path in self._opened if _forbidden(path, folder)]
        finally:
            self._opened = None
        outcome, code, why = _judged(status, said, err)
        if opened:
            outcome, why = WRONG_SUCCESS, f"read {opened[0]}"
        elif outcome == ACCEPTED:
            why = drawn.target.check(Read(folder, said, err), Read(undamaged, self._said[drawn.target.name]))
            outcome = WRONG_SUCCESS if why else ACCEPTED
        seconds = round(time.monotonic() - begun, 1)
        shutil.rmtree(folder, ignore_errors=True)
        return Row(
            self._seed, case, drawn.target.name, drawn.file, drawn.mutations, outcome, code,
            why if outcome in FAULTS else "", seconds,
        )  # fmt: skip

    def _command(self, target: Target, folder: Path) -> tuple[int, str, str]:
        """Exit status (1: an exception came through), standard output, standard error."""
        out, err = io.StringIO(), io.StringIO()
        module, *arguments = target.command
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = importlib.import_module(module).main(arguments)
            except BaseException:
                err.write(traceback.format_exc())
                status = 1
        if self._shows and self._opened is not None:
            print(out.getvalue(), err.getvalue(), sep="", file=sys.stderr)
        return status, out.getvalue(), err.getvalue()

    def _notice(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and self._opened is not None and isinstance(arguments[0], str | bytes):
            self._opened.append(os.fsdecode(arguments[0]))


def _forbidden(path: str, folder: Path) -> bool:
    real = os.path.realpath(folder / path)
    return real in ("/etc/passwd", "/dev/zero") or real.startswith(f"{folder.resolve()}/{_OUTSIDE}/")


def _judged(status: int, said: str, err: str) -> tuple[str, str, str]:
    """Outcome, error code, and what is wrong."""
    lines = err.strip().splitlines()
    last = lines[-1] if lines else ""
    if "Traceback (most recent call last)" in err or status == 1:
        return TRACEBACK, "", last[:300]
    if status == 0:
        return ACCEPTED, "", ""
    if status not in _REFUSALS or not last.startswith("error: ") or not last.endswith("]"):
        return TRACEBACK, "", f"status {status}: {last[:300]}"
    code = last[last.rindex("[") + 1 : -1]
    return (UNCLEAR, code, last[:300]) if _EXCEPTION.search(last) else (REFUSED, code, "")


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Nothing that a library in C prints reaches the terminal."""
    with open(os.devnull, "w") as nowhere:
        before = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
