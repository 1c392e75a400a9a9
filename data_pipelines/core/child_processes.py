"""What the worker processes of a loader or a pool do about signals, and when their parent is gone."""

import multiprocessing
import os
import signal
import threading


def follow_parent(*ignored: signal.Signals) -> None:
    """Leaves signals that reach the whole process group to the parent; a process whose parent is gone ends too."""
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)

    def follow() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(0)

    threading.Thread(target=follow, name="parent", daemon=True).start()
