"""Starts the project's programs as `python -m` does, but for the libraries, which one process has imported for all.

That process imports what every program imports of others, and nothing of the project; it forks for each program, whose
own modules, arguments, environment and folder are as a user's. The fork is handed over to who asked for it, whose
child it then is: it can be waited for, signalled and read from as any other.

Each worker of a session has a process of its own for each set of JAX's variables, since JAX reads these when it is
imported. One hash seed is shared by a process's forks; `finished_run`, with which others are compared, is not forked.
"""

import ctypes
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

LIBRARIES = (
    "PIL.Image",
    "einops",
    "flax.nnx",
    "grain",
    "jax",
    "jaxtyping",
    "jinja2",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "optax",
    "orbax.checkpoint",
    "pydantic",
    "scipy.stats",
    "sentencepiece",
    "tensorboardX",
    "tokenizers",
    "tqdm",
)
_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE = 1 << 18  # bytes: arguments and environment


class Fork(subprocess.Popen[str]):
    """A program that one of the processes forks."""

    _servers: ClassVar[dict[tuple[tuple[str, str], ...], socket.socket]] = {}

    def _execute_child(self, args: Sequence[str], *rest: Any) -> None:  # type: ignore[override]
        cwd, environment, session = rest[4], rest[5], rest[-2]
        pipes = rest[9:15]  # for standard input, output and error, each to read and to write
        server = self._server(environment)
        wanted = {"command": list(args), "cwd": str(cwd), "environment": dict(environment), "session": session}
        socket.send_fds(server, [json.dumps(wanted).encode()], [pipes[3], pipes[5]])
        self.pid = int(server.recv(64))
        assert server.recv(64) == b"handed over"
        self._child_created = True
        for end in (pipes[3], pipes[5]):
            os.close(end)

    @classmethod
    def _server(cls, environment: Mapping[str, str]) -> socket.socket:
        key = tuple(sorted((k, v) for k, v in environment.items() if k.startswith(("JAX_", "PYTHON"))))
        if key not in cls._servers:
            # What a fork leaves behind becomes a child of this process, rather than of the first of the machine.
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            subprocess.Popen([sys.executable, __file__, str(its.fileno())], env=environment, pass_fds=[its.fileno()])
            its.close()
            cls._servers[key] = ours
        return cls._servers[key]


def serve(connection: socket.socket) -> None:
    """Forks for each request until nobody can make any; returns in none but the last process, and in each fork."""
    for name in LIBRARIES:
        importlib.import_module(name)
    while True:
        message, pipes, *_ = socket.recv_fds(connection, _MESSAGE, 2)
        if not message:
            return
        between = os.fork()
        if not between:
            if program := os.fork():
                connection.send(str(program).encode())
                os._exit(0)
            connection.close()
            return _become(json.loads(message), pipes)
        os.waitpid(between, 0)
        connection.send(b"handed over")
        for pipe in pipes:
            os.close(pipe)


def _become(wanted: Mapping[str, Any], pipes: Sequence[int]) -> None:
    if wanted["session"]:
        os.setsid()
    for pipe, place in zip(pipes, (1, 2), strict=True):
        os.dup2(pipe, place)
        os.close(pipe)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(wanted["environment"])
    sys.path[0] = wanted["cwd"]
    executable, _, module, *arguments = wanted["command"]
    sys.argv = [module, *arguments]
    sys.orig_argv = [executable, "-m", module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
