"""SIGTERM and SIGINT, which is how schedulers announce a preemption or the end of the time allowed.

The first one asks the run to stop: while it trains, at the next step, after saving; at any other time at once, by the
exception `Interrupted`, because everything there is to save is saved by then. The second one ends the process.
"""

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Self

from data_pipelines.core import exit_codes
from data_pipelines.core.signals import raised_again, send

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# One cause may send the signal twice, to the process and to its group; only a later one is a second request.
_REPEATED_SECONDS = 1.0


class Interrupted(BaseException):
    """The run was asked to stop. No `Exception`, so that nothing on the way takes it for a failure.

    Attributes:
      on_all_hosts: whether all hosts stop so, by agreement, after a step that they name.
    """

    exit_code = exit_codes.INTERRUPTED

    def __init__(self, step: int | None = None):
        super().__init__("interrupted; run the same command again to resume")
        self.on_all_hosts = step is not None


class Interruption:
    """Listens for the signals between `with` and its end. Does nothing outside the main thread, which receives them."""

    def __init__(self) -> None:
        self._asked: float | None = None
        self._raised = self._said = False
        self._repeats = 0  # signals that are on the way again, see `signals.raised_again`
        self._nothing_to_save = False
        self._deferred = False
        self._end = contextlib.ExitStack()

    @property
    def requested(self) -> bool:
        """Whether the run was asked to stop."""
        return self._asked is not None

    @contextlib.contextmanager
    def nothing_to_save(self) -> Iterator[None]:
        """Around a wait that Python's handlers do not reach, before anything is done: a signal ends the process."""
        self._nothing_to_save = True
        try:
            yield
        finally:
            self._nothing_to_save = False

    def deferred(self) -> contextlib.AbstractContextManager[None]:
        """Within it a signal raises nothing; the code asks `requested` where it can stop.

        Raises:
          Interrupted: at its end, for a signal that nobody asked about.
        """
        return self._deferring(True)

    def immediate(self) -> contextlib.AbstractContextManager[None]:
        """Within it a signal raises `Interrupted`, also where `deferred` is in force around it.

        Raises:
          Interrupted: also at once, when the run was asked to stop before.
        """
        if self.requested:
            raise Interrupted
        return self._deferring(False)

    @contextlib.contextmanager
    def _deferring(self, deferred: bool) -> Iterator[None]:
        before, self._deferred = self._deferred, deferred
        try:
            yield
        finally:
            self._deferred = before
        if self.requested and not self._deferred:
            raise Interrupted

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            # Python runs its handlers between two lines of Python, which a wait for a device or a host never reaches;
            # the interpreter writes to this socket at once, so that a second signal ends even a process that hangs.
            self._heard, written = socket.socketpair()
            written.setblocking(False)
            self._end.callback(written.close)  # ends the thread
            for number in _SIGNALS:
                self._end.callback(signal.signal, number, signal.signal(number, self._raise))
            self._end.enter_context(raised_again(Interrupted, self._again))
            before = signal.set_wakeup_fd(written.fileno(), warn_on_full_buffer=False)
            self._end.callback(signal.set_wakeup_fd, before)
            threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._asked is None:
            self._asked = time.monotonic()
        # Once: what another signal would interrupt is the cleaning up after the first.
        if not self._deferred and not self._raised:
            self._raised = True
            raise Interrupted

    def _again(self) -> None:
        self._raised, self._repeats = False, self._repeats + 1
        send(signal.SIGTERM)

    def _listen(self) -> None:
        with self._heard:
            while received := self._heard.recv(1):
                number = received[0]
                if number not in _SIGNALS:
                    continue
                if self._repeats:
                    self._repeats -= 1
                    continue
                if self._nothing_to_save:
                    logger.warning("%s: ending; there is nothing to save yet", signal.Signals(number).name)
                    os._exit(exit_codes.INTERRUPTED)
                if not self._said:
                    self._said, self._asked = True, self._asked or time.monotonic()
                    logger.warning("%s: stopping; once more ends at once", signal.Signals(number).name)
                elif time.monotonic() - (self._asked or 0.0) > _REPEATED_SECONDS:
                    logger.warning("%s again: ending at once", signal.Signals(number).name)
                    os._exit(128 + number)
