"""Names a stall: a thread that says in the log what a run waits for when no step has finished for long."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Literal, Self

logger = logging.getLogger(__name__)

Phase = Literal["input", "compilation", "device", "checkpoint", "validation"]
_WAITS = {
    "input": "waits for input: is a disk or a worker stuck? see data.workers, data.threads and data.root",
    "compilation": "compiles, or waits for another host that does; a large model takes minutes, once",
    "device": "waits for the device or for another host; look at the logs of the others",
    "checkpoint": "waits for a checkpoint to be written; look at the workdir's disk, and at the other hosts",
    "validation": "validates; evaluation.during_examples and train.evaluate_every say how much and how often",
    "": "is busy between steps",
}


class Watchdog:
    """Warns when no step has finished for `seconds`, and again each time that the wait has doubled.

    It runs between `with` and its end. Only a wait is named; nothing is stopped.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._phase: Phase | Literal[""] = ""
        self._changed = threading.Condition()
        self._since, self._next, self._ended = time.monotonic(), seconds, False

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """What the run does within it."""
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def finished_step(self) -> None:
        """A step is done: counting begins anew."""
        self._since, self._next = time.monotonic(), self._seconds

    def __enter__(self) -> Self:
        self.finished_step()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._ended:
                waited = time.monotonic() - self._since
                if waited >= self._next:
                    logger.warning("no step has finished for %.0f s: the run %s", waited, _WAITS[self._phase])
                    self._next = 2 * waited
                # Not longer than `seconds`: a step that finishes meanwhile brings the next warning nearer.
                self._changed.wait(max(min(self._next - waited, self._seconds), 0.01))
