"""Ctrl-C and SIGTERM where Python alone would print a traceback: while it imports and ends, and where it loses them.

Imports nothing that takes time: a command calls `end_at_once` before it imports anything else.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from data_pipelines.core import exit_codes

_AGAIN_SECONDS = 0.05


class EndAtOnce:
    """A handler that ends the process with one line."""

    def __init__(self, line: str, code: int):
        self.line, self.code = line, code

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """What the signal does."""
        os.write(2, f"\n{self.line}\n".encode())
        os._exit(self.code)


def end_at_once(*numbers: signal.Signals, line: str = "interrupted", code: int = exit_codes.CTRL_C) -> None:
    """Makes these signals, Ctrl-C where none is named, end the process: there is nothing to undo.

    Until a command listens itself (`raising_on_ctrl_c`, `Interruption`), and again when it does not any more. Leaves
    what somebody has chosen, as a shell does for what it starts in the background.
    """
    if threading.current_thread() is threading.main_thread():
        for number in numbers or (signal.SIGINT,):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, EndAtOnce(line, code))


@contextlib.contextmanager
def raising_on_ctrl_c() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt, so that a command can leave everything in order.

    Not for training, which goes from `end_at_once` to `Interruption` and has another exit code.
    """
    with contextlib.ExitStack() as end:
        before = signal.getsignal(signal.SIGINT)
        if isinstance(before, EndAtOnce) and before.code == exit_codes.CTRL_C:
            end.callback(signal.signal, signal.SIGINT, before)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        end.enter_context(raised_again(KeyboardInterrupt, lambda: send(signal.SIGINT)))
        yield


def send(number: signal.Signals) -> None:
    """Sends a signal to the main thread, which alone receives them in Python."""
    signal.pthread_kill(threading.main_thread().ident or 0, number)


@contextlib.contextmanager
def raised_again(kind: type[BaseException], again: Callable[[], None]) -> Iterator[None]:
    """Within it an exception of a signal is not lost where Python cannot raise it.

    The handler may run in a destructor, or in a callback of the garbage collector (JAX has one) or of C: Python then
    prints a traceback, "Exception ignored in …", and goes on.

    Args:
      again: what has the signal sent once more, a moment later.
    """
    on_the_way: list[threading.Timer] = []

    def send_again(unraisable: "sys.UnraisableHookArgs") -> bool:
        if isinstance(unraisable.exc_value, kind):
            on_the_way.append(threading.Timer(_AGAIN_SECONDS, again))
            on_the_way[-1].start()
            return True
        return False

    try:
        with unraisable_taken(send_again):
            yield
    finally:
        for timer in on_the_way:
            timer.cancel()


@contextlib.contextmanager
def unraisable_taken(take: Callable[["sys.UnraisableHookArgs"], bool]) -> Iterator[None]:
    """Within it `take` gets what Python cannot raise, which is printed where that returns False."""
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not take(unraisable):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
