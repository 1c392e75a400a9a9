"""The processes of a run over several hosts: how they find one another, wait, agree, and learn that one is gone.

How `join` decides, by environment:

    RLLAVA_COORDINATOR=HOST:PORT, RLLAVA_NUM_PROCESSES, RLLAVA_PROCESS_ID
        these processes, and no detection. Every process sees all devices of its machine, unless JAX's own
        JAX_LOCAL_DEVICE_IDS=0,1 gives it some: needed where several processes share a machine's GPUs.
    RLLAVA_NUM_PROCESSES=1, no RLLAVA_COORDINATOR
        this process alone, and no detection.
    none of them
        whatever cluster JAX detects with more than one process: TPU pods (Compute Engine's metadata or GKE's
        TPU_WORKER_HOSTNAMES, several slices by MEGASCALE_*), a step started by SLURM's srun (JAX then gives each
        process the one GPU of its SLURM_LOCALID, so start one task per GPU), Open MPI, and an indexed Kubernetes Job
        where the package `kubernetes` is installed. Otherwise this process alone.

    RLLAVA_JOIN_TIMEOUT       seconds in which all must appear (300)
    RLLAVA_HEARTBEAT_TIMEOUT  seconds of silence after which a host counts as lost (100)
    RLLAVA_BARRIER_TIMEOUT    seconds that hosts wait for one another outside the device (1800)

JAX's coordination service, in process 0, keeps the heartbeats. This module adds what a person needs: a last line that
says what happened, an exit code, and a failure of one host told to all the others instead of leaving them to wait.
"""

import contextlib
import ctypes
import itertools
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

# Private in JAX 0.10.2. `jax.distributed` shows no client, and so neither a barrier with a timeout
# (`multihost_utils.sync_global_devices` waits for ever) nor the keys by which one host tells the others that it failed.
from jax._src import distributed

# `jax.distributed.initialize()` raises where it detects no cluster, and takes any pod of Kubernetes for one of several
# processes; only this list says beforehand what it would join.
from jax._src.clusters import ClusterEnv
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.core import exit_codes
from data_pipelines.core.command_line import last_line
from data_pipelines.core.errors import ConfigError, reason_of
from data_pipelines.core.storage import storage_failure

logger = logging.getLogger(__name__)

_FAILED = "rllava/failed"  # key under which the first host that fails leaves its exit code and message
_SEEN = "rllava/seen/"
_POLL_SECONDS = 1.0
_FAREWELL_SECONDS = 10.0  # in which the others must have read a failure before the host of the service may go
_GONE = re.compile(r"connection (closed|reset|refused)|socket closed|broken pipe|heartbeat|unhealthy|UNAVAILABLE", re.I)
_OWN = re.compile(r"RESOURCE_EXHAUSTED|INVALID_ARGUMENT|UNIMPLEMENTED")  # this host's own fault
_AGAIN = "run the same command again on all hosts to resume from the last checkpoint"
_barriers = itertools.count()
_abort_handler: Any = None  # kept, or the callback would be freed


class HostLost(RuntimeError):
    """Another host is gone or never came; the message says so in one line."""

    exit_code = exit_codes.LOST_HOST


@contextlib.contextmanager
def shared_failures() -> Iterator[None]:
    """Around all that a run over several hosts does: tells the others what ends this one, which they cannot know.

    Errors that all hosts raise alike (their attribute `on_all_hosts`) pass, and so does everything on a single host.
    Any other ends this process here, with its own exit code.
    """
    try:
        yield
    except BaseException as raised:
        error: Any = storage_failure(raised) or raised
        expected = hasattr(error, "exit_code")
        passes = getattr(error, "on_all_hosts", False) or not (expected or isinstance(error, Exception))
        if not several() or passes:
            raise
        if not expected and _is_lost_host(error):
            error, expected = HostLost(f"another host was lost ({reason_of(error)}); {_AGAIN}"), True
        if expected:
            code, message, last = error.exit_code, str(error), last_line(error)
        else:
            traceback.print_exc()
            code, message = 1, f"{type(error).__name__}: {error}"
            last = f"error: {message}"
        # JAX may end this process before the others know, as it does when the service's host is the lost one.
        _say_at_abort(last, code)
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # another was first, or the service is gone: they know
            _client().key_value_set(_FAILED, f"{code} {jax.process_index()} {message}")
        _farewell()
        # Said when they know: the stack of such an end would stand below the line.
        print(last, file=sys.stderr, flush=True)
        leave(code)


def join() -> None:
    """Joins the other processes of this run, if there are any; see the module's text.

    Raises:
      ConfigError: an environment variable that makes no sense, or a detected cluster that cannot be read.
    """
    coordinator, number = os.environ.get("RLLAVA_COORDINATOR"), os.environ.get("RLLAVA_NUM_PROCESSES")
    arguments: dict[str, Any] = {}
    if coordinator:
        processes, process = _number("RLLAVA_NUM_PROCESSES"), _number("RLLAVA_PROCESS_ID")
        if not re.fullmatch(r".+:\d+", coordinator):
            raise _invalid(f"RLLAVA_COORDINATOR: {coordinator!r} is not an address; write HOST:PORT of process 0")
        if not 0 <= process < processes:
            raise _invalid(f"RLLAVA_PROCESS_ID: {process} is not one of 0 to {processes - 1}; see RLLAVA_NUM_PROCESSES")
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": processes,
            "process_id": process,
            # Detection would fill in the one thing not given here: under SLURM, one GPU for each process.
            "cluster_detection_method": "deactivate",
        }
        where = f"{processes} processes at {coordinator}"
    elif number is not None:
        if number != "1":
            raise ConfigError(
                f"RLLAVA_NUM_PROCESSES: {number} processes need RLLAVA_COORDINATOR and RLLAVA_PROCESS_ID",
                code="environment.conflict",
            )
        return
    elif (cluster := _detected()) is None:
        return
    else:
        where = f"the processes of the {cluster} cluster"
    timeout = _number("RLLAVA_JOIN_TIMEOUT", 300)
    heartbeat = _number("RLLAVA_HEARTBEAT_TIMEOUT", 100)
    # JAX's preemption service would take SIGTERM, and it alone, from interruption.py; `OnAnyHost` agrees instead.
    jax.config.update("jax_enable_preemption_service", False)
    _say_at_abort(
        f"error: not all of {where} appeared within {timeout} s; look at the hosts that are missing, then "
        "run the same command again on all of them"
    )
    jax.distributed.initialize(
        **arguments,
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=heartbeat,
        shutdown_timeout_seconds=heartbeat,
    )
    _say_at_abort(f"error: another host was lost (JAX names it above); {_AGAIN}")
    logger.info("process %d of %d (%s)", jax.process_index(), jax.process_count(), where)
    threading.Thread(target=_watch, name="hosts", daemon=True).start()


def _detected() -> str | None:
    """The name of the cluster of several processes that JAX would join by itself."""
    for environment in ClusterEnv._cluster_types:
        name = environment.name or environment.__name__
        # Else any pod of a Kubernetes cluster would be taken for a job of several.
        single_pod = "K8s" in environment.__name__ and "JOB_COMPLETION_INDEX" not in os.environ
        if environment.opt_in_only_method or single_pod:
            continue
        try:
            if environment.is_env_present():
                return name if environment.get_process_count() > 1 else None
        except Exception as error:  # each kind of cluster has its own
            raise _invalid(
                f"cluster: {name} was detected, but its processes cannot be read ({error}); set RLLAVA_COORDINATOR, "
                "RLLAVA_NUM_PROCESSES and RLLAVA_PROCESS_ID, or RLLAVA_NUM_PROCESSES=1 for this process alone"
            ) from None
    return None


def _number(name: str, default: int | None = None) -> int:
    value = os.environ.get(name, "" if default is None else str(default))
    if not value.isdigit():
        raise _invalid(f"{name}: {value!r} is not a number; write one")
    return int(value)


def _invalid(line: str) -> ConfigError:
    return ConfigError(line, code="environment.invalid-value")


def several() -> bool:
    """Whether this run has more than one process."""
    return distributed.global_state.client is not None and distributed.global_state.num_processes > 1


def barrier(name: str) -> None:
    """Waits for all hosts.

    Raises:
      HostLost: one did not come in time.
    """
    if not several():
        return
    timeout = _number("RLLAVA_BARRIER_TIMEOUT", 1800)
    try:
        # Not a collective of the devices, which would have no timeout.
        _client().wait_at_barrier(f"rllava/{name}/{next(_barriers)}", timeout * 1000)
    except jax.errors.JaxRuntimeError as error:
        raise HostLost(f"{name}: not all hosts came within {timeout} s ({reason_of(error)}); {_AGAIN}") from None


def everywhere(holds: bool) -> bool:
    """Whether it holds on every host; all must ask."""
    return bool(multihost_utils.process_allgather(np.array(holds)).all()) if several() else holds


class OnAnyHost:
    """Whether something holds on any host, asked by all at every step, at no cost to it.

    One host knows at once. Several compute the answer on their devices, behind the step that is queued there, and read
    that of the time before: all hear it at the same step, and none waits for what is not ready.
    """

    def __init__(self) -> None:
        if several():
            mesh = jax.sharding.Mesh(np.array(jax.devices()), "devices")
            self._sharding = NamedSharding(mesh, PartitionSpec("devices"))
            self._any = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._before: jax.Array | None = None

    def __call__(self, holds: bool) -> bool:
        if not several():
            return holds
        mine = np.full(jax.local_device_count(), holds)
        before, self._before = self._before, self._any(jax.make_array_from_process_local_data(self._sharding, mine))
        return before is not None and bool(before)


def _is_lost_host(error: Exception) -> bool:
    """Whether a failed computation means that another host is gone.

    A broken connection says so itself. Of any other failure of several hosts' computation JAX's heartbeats decide: they
    end this process, with exit code 76, within the wait here if a host is gone.
    """
    # jaxlib raises a plain ValueError, which begins with the status, where a program fails while it is dispatched.
    status = isinstance(error, ValueError) and re.match(r"[A-Z_]+: ", str(error))
    if not (status or isinstance(error, jax.errors.JaxRuntimeError)):
        return False
    if _GONE.search(str(error)):
        return True
    if _OWN.search(str(error)):
        return False
    logger.warning("a computation failed (%s); waiting to see whether another host is gone", reason_of(error))
    time.sleep(1.5 * _number("RLLAVA_HEARTBEAT_TIMEOUT", 100))
    return False


def leave(code: int) -> NoReturn:
    """Ends this process now: the orderly end of several hosts waits for all of them, which one of them cannot give."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch() -> None:
    """Ends this process when another host says that it stops."""
    client = _client()
    while True:
        time.sleep(_POLL_SECONDS)
        try:
            found = client.key_value_try_get(_FAILED)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                continue
            return  # the service is gone; JAX ends this process
        code, process, message = found.split(" ", 2)
        if int(process) == distributed.global_state.process_id:
            return  # its own main thread sees to the end
        _say_at_abort("", int(code))
        print(f"error: host {process} stopped: {message}", file=sys.stderr, flush=True)
        _farewell()
        leave(int(code))


def _farewell() -> None:
    """Says that this process knows of the failure, and waits for all that must not be cut off by its end.

    The one that failed waits until all know; process 0, with which the service ends, also until that one has left.
    """
    state = distributed.global_state
    end = time.monotonic() + _FAREWELL_SECONDS
    try:
        failed = int(_client().key_value_try_get(_FAILED).split(" ")[1])
        mine = f"{_SEEN}{state.process_id}"
        if state.process_id != failed:
            _client().key_value_set(mine, "", allow_overwrite=True)
        # Of the others the one that failed; process 0 waits for that one too.
        needed = state.num_processes - (state.process_id == failed) if state.process_id in (0, failed) else 0
        while time.monotonic() < end and len(_client().key_value_dir_get(_SEEN)) < needed:
            time.sleep(0.1)
        if state.process_id == failed:
            _client().key_value_set(mine, "", allow_overwrite=True)
        if state.process_id == 0:
            time.sleep(0.5)  # between a process's last word and its end
    except jax.errors.JaxRuntimeError:
        return


def _say_at_abort(message: str, code: int = exit_codes.LOST_HOST) -> None:
    """Prints `message` and exits with `code` when the runtime aborts this process.

    JAX's client ends the process in C++ (`abort` after a fatal log line) when a peer is lost, or does not come. Its
    hook for that, `missed_heartbeat_callback`, cannot be used: handing the status to Python fails with `std::bad_cast`
    (jaxlib 0.10.2), which aborts as well. A signal handler of Python's would wait for the main thread; this one runs in
    the thread that aborts, which holds no lock of the interpreter's.
    """
    global _abort_handler

    def handler(_: int) -> None:
        if message:
            sys.stderr.write(message + "\n")
            sys.stderr.flush()
        os._exit(code)

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int)
    new = kind(handler)
    library = ctypes.CDLL(None)
    library.signal.argtypes, library.signal.restype = [ctypes.c_int, kind], ctypes.c_void_p
    library.signal(signal.SIGABRT, new)
    _abort_handler = new


def _client() -> Any:
    return distributed.global_state.client
