"""Runs command lines, or prints them as a shell script that can be pasted; what the programs' own lines share.

The programs of `launch/` that outgrew the shell import it. They take the standard library alone, and any Python from
3.11 on, so that they run outside the environment.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

# Exit codes of `python -m rllava_jax.main`: 75 interrupted and saved, 76 lost another host; above 128 it was killed.
DONE, MENDABLE = 0, 2
_AGAIN = (75, 76)


class LaunchError(Exception):
    """What stops a launch: one line for the user."""


class CommandFailed(LaunchError):
    """A command that did not end well, with its exit status."""

    def __init__(self, command: Sequence[str], status: int, message: str = "") -> None:
        shown = f"exit status {status} from: {shlex.join(command)}"
        super().__init__(f"{shown}: {message}" if message else shown)
        self.status = status


def starts_again(code: int) -> bool:
    """Whether a program that ended with this exit code is to be started again with the same line."""
    return code in _AGAIN or code > 128


def command_line(
    prog: str, description: str, about: Mapping[str, str]
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """A program's parser, and those of its actions, which `about` names and describes."""
    parser = argparse.ArgumentParser(prog=prog, description=description, allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    return parser, {
        action: actions.add_parser(action, help=text, description=text, allow_abbrev=False)
        for action, text in about.items()
    }


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """The option that makes a program show its commands; see `Commands`."""
    parser.add_argument("--dry-run", action="store_true", help="print what would run, as a shell script; run nothing")


def add_program(parser: argparse.ArgumentParser, *, config: str | None = None, workdir: str) -> None:
    """The arguments that are passed on, last; `config` and `workdir` say what they may be."""
    parser.add_argument("config", metavar="CONFIG", help=config)
    parser.add_argument("workdir", metavar="WORKDIR", help=workdir)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="passed on to rllava_jax.main")


def revision() -> str:
    """The code's revision, which the copy on the workers cannot know; spelt as in `checkpoint/provenance.py`."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    head = git("rev-parse", "HEAD")
    return head + ("+changes" if head and git("status", "--porcelain", "--untracked-files=no") else "") or "unknown"


class Commands:
    """Runs commands, or with `dry_run` prints each as a line of a shell script and runs nothing."""

    def __init__(self, *, dry_run: bool) -> None:
        self.dry_run = dry_run

    def say(self, text: str) -> None:
        """A remark for the user; in a dry run a comment."""
        if self.dry_run:
            print("\n".join(f"# {line}" for line in text.splitlines()), flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def run(self, command: Sequence[str], *, stdin: str | None = None) -> None:
        """Runs a command with its output on ours. Raises CommandFailed."""
        if self.dry_run:
            print(shlex.join(command) + (f" <<'END'\n{stdin}END" if stdin is not None else ""), flush=True)
            return
        status = self._start(command, stdin=stdin, capture=False).returncode
        if status:
            raise CommandFailed(command, status)

    def compiles_here(self, options: argparse.Namespace) -> bool:
        """Whether `--mode compile` is asked for, which needs no accelerator: it takes this process's place then."""
        asked = list(options.arguments)
        if "--mode=compile" not in asked and ("--mode", "compile") not in itertools.pairwise(asked):
            return False
        local = [str(REPOSITORY / "launch" / "local.sh"), options.config, options.workdir, *asked]
        self.say("needs no TPU, runs here:")
        if not self.dry_run:
            os.execv(local[0], local)
        self.run(local)
        return True

    def output(self, command: Sequence[str]) -> bytes:
        """Runs a command that only asks something; returns its standard output. Raises CommandFailed.

        Never called in a dry run, which has no answers to go on from.
        """
        assert not self.dry_run, command
        done = self._start(command, stdin=None, capture=True)
        if done.returncode:
            lines = done.stderr.decode(errors="replace").strip().splitlines()
            raise CommandFailed(command, done.returncode, lines[-1] if lines else "")
        return done.stdout

    def _start(self, command: Sequence[str], *, stdin: str | None, capture: bool) -> subprocess.CompletedProcess[bytes]:
        try:
            given = b"" if stdin is None else stdin.encode()  # never our terminal's input: ssh would take it
            return subprocess.run(list(command), input=given, capture_output=capture, check=False)
        except FileNotFoundError:
            raise LaunchError(f"there is no {command[0]} here; docs/launch/ says how to install it") from None
