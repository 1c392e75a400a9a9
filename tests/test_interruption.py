"""Ctrl-C and SIGTERM in one line at any moment: while a command imports, and where Python would lose them."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest

from data_pipelines.core import exit_codes
from data_pipelines.core.command_line import Parser, run_command
from rllava_jax.__main__ import COMMANDS
from rllava_jax.runtime.interruption import Interrupted, Interruption

# Stands in for the first of the libraries that a command imports, and takes its time.
SLOW_IMPORT = "import time\nprint('imports', flush=True)\ntime.sleep(60)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values()])
def test_while_a_command_imports_a_signal_ends_it_in_one_line(module, number, tmp_path):
    training = module == "rllava_jax.main"
    if number == signal.SIGTERM and not training:
        pytest.skip("SIGTERM has its usual meaning there: the process ends, and says nothing")
    for library in ("numpy", "jax", "pydantic", "PIL"):
        (tmp_path / f"{library}.py").write_text(SLOW_IMPORT)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.getcwd()}", "GLIBC_TUNABLES": ""}
    process = subprocess.Popen([sys.executable, "-m", module], env=environment, stdout=-1, stderr=-1, text=True)
    assert process.stdout.readline() == "imports\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == (exit_codes.INTERRUPTED if training else exit_codes.CTRL_C)
    assert [line.partition(";")[0] for line in err.split("\n") if line] == ["interrupted"]


class Lost:
    """Where Python cannot raise what a signal's handler raises."""

    def __init__(self, number):
        self.number = number

    def __call__(self, *_):
        os.kill(os.getpid(), self.number)
        for _ in range(1000):  # the handler runs between two of these
            pass

    def in_the_garbage_collector(self):
        gc.callbacks.append(self)
        try:
            gc.collect(0)
        finally:
            gc.callbacks.remove(self)

    def in_a_destructor(self):
        outer = self

        class Destroyed:
            def __del__(self):
                outer()

        Destroyed()

    def in_a_weak_reference(self):
        class Referred:
            pass

        referred = Referred()
        reference = weakref.ref(referred, self)
        del referred
        assert reference() is None


PLACES = [name for name in vars(Lost) if name.startswith("in_")]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_training_is_interrupted_where_python_would_lose_the_signal(place, number, monkeypatch, caplog, capfd):
    def run():
        getattr(Lost(number), place)()
        time.sleep(5)
        raise AssertionError("it went on")

    # Commands that ran in this process before have left handlers of streams that are closed.
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])
    with Interruption(), pytest.raises(Interrupted):
        run()
    assert "Traceback" not in capfd.readouterr().err
    time.sleep(0.1)  # the thread that says so
    assert [message.partition(":")[0] for message in caplog.messages] == [number.name]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("place", PLACES)
def test_any_command_is_interrupted_where_python_would_lose_the_signal(place, capfd):
    def work(_):
        getattr(Lost(signal.SIGINT), place)()
        time.sleep(5)
        raise AssertionError("it went on")

    assert run_command(Parser(prog="any"), work, []) == exit_codes.CTRL_C
    assert capfd.readouterr().err == "\ninterrupted\n"
