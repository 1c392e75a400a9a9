"""Two processes as two hosts, two CPU devices each: they train, lose one another with a message, and go on."""

import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from expected_errors import refused
from resumed_runs import LIGHT, STEPS, checkpoints, examples, losses, wait_for_step

from data_pipelines.core import exit_codes
from rllava_jax.config import ConfigError
from rllava_jax.runtime import hosts

HEARTBEAT = 10


class Pair:
    """Both processes of a run over two hosts."""

    def __init__(self, command_line):
        self._command_line = command_line

    def start(self, workdir, *, hosts=(0, 1), config=None, **variables):
        """Starts the named ones, as `launch/multihost.sh` does."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        command = self._command_line.main(workdir, *LIGHT)
        if config is not None:
            command[command.index("--config") + 1] = str(config)
        return [
            self._command_line.start(
                command,
                devices=2,
                JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
                RLLAVA_COORDINATOR=f"localhost:{port}",
                RLLAVA_NUM_PROCESSES="2",
                RLLAVA_PROCESS_ID=str(host),
                RLLAVA_HEARTBEAT_TIMEOUT=str(HEARTBEAT),
                **{"RLLAVA_JOIN_TIMEOUT": "60", **variables},
            )
            for host in hosts
        ]

    @staticmethod
    def finish(processes, timeout=240):
        """Exit code and standard error of each, in time."""
        end = time.monotonic() + timeout
        try:
            said = [process.communicate(timeout=end - time.monotonic())[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        return [(process.returncode, err) for process, err in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def pair(command_line):
    return Pair(command_line)


def last_line(err):
    return err.splitlines()[-1]


def test_a_lost_host_stops_the_other_and_both_go_on_to_the_same_result(pair, finished_run, tmp_path):
    workdir = tmp_path / "run"
    processes = pair.start(workdir)
    wait_for_step(processes[0], workdir, 6)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    (status, err), (other, _) = pair.finish(processes, timeout=4 * HEARTBEAT)
    assert other == -signal.SIGKILL
    assert status == exit_codes.LOST_HOST == 76, err
    assert time.monotonic() - killed < 4 * HEARTBEAT
    assert last_line(err).startswith("error: another host was lost")
    assert "run the same command again on all hosts" in last_line(err)
    assert 4 in checkpoints(workdir)

    for status, err in pair.finish(pair.start(workdir)):
        assert status == 0, err
    np.testing.assert_allclose(losses(workdir), losses(finished_run), rtol=1e-5, atol=0)
    assert examples(workdir) == examples(finished_run)
    assert (workdir / "eval" / str(STEPS) / "report.html").exists()


def test_sigterm_at_one_host_stops_both_at_the_same_step_and_one_process_goes_on(
    pair, finished_run, command_line, tmp_path
):
    workdir = tmp_path / "run"
    processes = pair.start(workdir)
    wait_for_step(processes[0], workdir, 5)
    processes[1].send_signal(signal.SIGTERM)
    said = pair.finish(processes)
    last = checkpoints(workdir)[-1]
    assert 5 < last < STEPS
    for status, err in said:
        assert status == exit_codes.INTERRUPTED, err
        assert f"interrupted after step {last} of {STEPS}, which is saved" in err
    status, _, err = command_line.run(command_line.main(workdir, *LIGHT))
    assert status == 0, err
    np.testing.assert_allclose(losses(workdir), losses(finished_run), rtol=1e-5, atol=0)
    assert examples(workdir) == examples(finished_run)


@pytest.mark.parametrize(("fault", "code"), [("DataError", 2), ("KeyError", 1)])
def test_a_failure_of_one_host_stops_the_other_with_its_message(pair, command_line, tmp_path, fault, code):
    config = tmp_path / "config.py"
    config.write_text(
        command_line.config.read_text()
        + f"""
import os
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.core.errors import DataError

read = Preprocessor.training
count = 0

def unreadable(self, example, rng, **options):
    global count
    count += 1
    if os.environ["RLLAVA_PROCESS_ID"] == "1" and count > 8:
        raise {fault}("slice 7 of scan 3 cannot be read")
    return read(self, example, rng, **options)

Preprocessor.training = unreadable
"""
    )
    began = time.monotonic()
    (status, err), (failed, its) = pair.finish(pair.start(tmp_path / "run", config=config))
    assert (status, failed) == (code, code), err + its
    assert "slice 7 of scan 3 cannot be read" in last_line(its)
    assert last_line(err).startswith("error: host 1 stopped: ")
    assert "slice 7 of scan 3 cannot be read" in last_line(err)
    assert ("Traceback" in its) == (fault == "KeyError")
    assert time.monotonic() - began < 120


# Hosts that agree without end, under the entry point's own handling of what ends them.
AGREE = """
import pathlib, sys, time
from data_pipelines.core.command_line import Parser, run_command
from rllava_jax.runtime import hosts

def work(options):
    with hosts.shared_failures():
        hosts.join()
        while True:
            hosts.everywhere(True)
            pathlib.Path(options.ready).touch()
            time.sleep(0.05)

parser = Parser()
parser.add_argument("ready")
sys.exit(run_command(parser, work))
"""


def test_where_the_host_of_the_service_is_lost_the_last_line_is_ours(pair, command_line, tmp_path):
    """JAX ends the other one in C++ meanwhile, with a stack."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    ready = [tmp_path / str(host) for host in (0, 1)]
    processes = [
        command_line.start(
            [sys.executable, "-c", AGREE, str(path)],
            devices=1,
            JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
            RLLAVA_COORDINATOR=f"localhost:{port}",
            RLLAVA_NUM_PROCESSES="2",
            RLLAVA_PROCESS_ID=str(host),
            RLLAVA_HEARTBEAT_TIMEOUT=str(HEARTBEAT),
        )
        for host, path in enumerate(ready)
    ]
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in ready) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGKILL)
    _, (status, err) = pair.finish(processes, timeout=4 * HEARTBEAT)
    assert status == exit_codes.LOST_HOST, err
    assert last_line(err).startswith("error: another host was lost"), err


@pytest.mark.parametrize("host", [0, 1])
def test_a_host_that_never_appears_is_missed_in_time(pair, tmp_path, host):
    began = time.monotonic()
    ((status, err),) = pair.finish(pair.start(tmp_path / "run", hosts=(host,), RLLAVA_JOIN_TIMEOUT="5"), timeout=60)
    assert status == exit_codes.LOST_HOST, err
    assert last_line(err).startswith("error: not all of 2 processes at localhost:")
    assert "appeared within 5 s" in last_line(err)
    assert time.monotonic() - began < 60
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("variables", "code", "named"),
    [
        ({"RLLAVA_COORDINATOR": "somewhere"}, "environment.invalid-value", "RLLAVA_NUM_PROCESSES: ''"),
        ({"RLLAVA_NUM_PROCESSES": "4"}, "environment.conflict", "RLLAVA_COORDINATOR"),
        (
            {"RLLAVA_COORDINATOR": "here:1", "RLLAVA_NUM_PROCESSES": "2", "RLLAVA_PROCESS_ID": "2"},
            "environment.invalid-value",
            "RLLAVA_PROCESS_ID: 2",
        ),
        (
            {"RLLAVA_COORDINATOR": "here", "RLLAVA_NUM_PROCESSES": "2", "RLLAVA_PROCESS_ID": "1"},
            "environment.invalid-value",
            "RLLAVA_COORDINATOR: 'here'",
        ),
    ],
    ids=["no number", "no coordinator", "no such process", "no port"],
)
def test_an_environment_that_makes_no_sense_is_named(monkeypatch, variables, code, named):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with refused(ConfigError, code, named):
        hosts.join()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"RLLAVA_NUM_PROCESSES": "1"},
        # A shell inside an allocation, where nothing was started by srun; and a step of one task.
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        {
            "SLURM_JOB_ID": "7",
            "SLURM_NTASKS": "1",
            "SLURM_PROCID": "0",
            "SLURM_LOCALID": "0",
            "SLURM_STEP_NODELIST": "node1",
        },
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    ],
    ids=["nothing", "one process", "no step", "one task", "a pod"],
)
def test_a_single_machine_stays_alone(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    hosts.join()
    assert not hosts.several()


def test_a_step_of_several_tasks_is_joined(monkeypatch):
    """As SLURM's srun sets them; process 1 looks for process 0 and says so when it is not there."""
    environment = {
        **os.environ,
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_NODELIST": "localhost",
        "RLLAVA_JOIN_TIMEOUT": "3",
    }
    joins = "from rllava_jax.runtime import hosts; hosts.join()"
    result = subprocess.run([sys.executable, "-c", joins], env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == exit_codes.LOST_HOST
    assert last_line(result.stderr).startswith(
        "error: not all of the processes of the slurm cluster appeared within 3 s"
    )
