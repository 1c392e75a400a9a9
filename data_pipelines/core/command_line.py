"""What all commands share: one kind of parser, one way to log, one way to end.

A command is a module with `main(argv)`, which hands its parser and its work to `run_command`:

    def main(argv: Sequence[str] | None = None) -> int:
        return run_command(_parser(), _work, argv)

Whatever raises an error with an `exit_code` (every `UserError`, and others that a package defines for itself) ends the
command with that code and one line, `error: LINE [code]`; any other error is a bug and keeps its traceback.
"""

import argparse
import contextlib
import logging
import math
import os
import shlex
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from data_pipelines.core import exit_codes
from data_pipelines.core.data_root import NoPlainFile
from data_pipelines.core.errors import ConfigError, OptionConflict, UnwritableFile
from data_pipelines.core.paths import expanded
from data_pipelines.core.signals import raising_on_ctrl_c
from data_pipelines.core.storage import SaidOnce, storage_failure, without_leftovers

# How much libraries may say. Orbax warns through absl at each save without validation figures, which is how most
# checkpoints are meant to be. What a failed read or log-in leaves behind in the last three, our own line says once.
_LIBRARIES = {"absl": logging.ERROR, "asyncio": logging.CRITICAL, "google": logging.CRITICAL, "gcsfs": logging.CRITICAL}
_SAID_ONCE = SaidOnce()
_OWN = ("rllava_jax", "data_pipelines", "__main__")

T = TypeVar("T")

# What argparse says, without saying which kind of fault it is.
_FAULTS = {
    "are required": "option.missing",
    "is required": "option.missing",
    "unrecognized arguments": "option.unknown",
    "not allowed with": "option.conflict",
}


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the description's lines, and adds an option's default where its help does not speak of one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if "default" in (action.help or "") or action.default is False or action.default in (None, "", (), []):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Options have no abbreviations, the description keeps its lines, and a fault is a ConfigError."""

    def __init__(self, *, overrides: str = "", **settings: Any):
        """Args:
        overrides: the prefix of arguments that are collected unread, in `options.overrides`.
        settings: argparse's own.
        """
        super().__init__(formatter_class=_HelpFormatter, allow_abbrev=False, **settings)
        self._overrides = overrides
        self._conditions: dict[str, tuple[str, ...]] = {}

    def goes_with(self, conditions: str | Sequence[str], *options: str) -> None:
        """Declares that `options` are read only where one of the conditions holds; elsewhere they are refused.

        Their defaults must be None, False or a value that no user can write, by which it is known that one was given.

        Args:
          conditions: as a user writes them: "--checkpoint", or "--mode compile".
        """
        held = (conditions,) if isinstance(conditions, str) else tuple(conditions)
        self._conditions |= dict.fromkeys(options, held)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, and checks what `goes_with` declares.

        Raises:
          ConfigError: an option is missing, unknown, of another type, or given where nothing reads it.
          NoPlainFile: an option names a pipe, a device or a socket.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        overrides = [argument for argument in arguments if self._overrides and argument.startswith(self._overrides)]
        options, rest = super().parse_known_args([a for a in arguments if a not in overrides], namespace)
        options.overrides = overrides
        if not rest:
            self._check_conditions(options)
            self._check_files(options)
        return options, rest

    def _check_files(self, options: argparse.Namespace) -> None:
        """Refuses pipes, devices and sockets under every option: who opens one may wait or read for ever."""
        for name, value in vars(options).items():
            for said in value if isinstance(value, list | tuple) else (value,):
                path = str(said).partition("=")[2] if name == "overrides" else said
                if isinstance(path, str | Path) and path and not _is_plain(path):
                    option = said if name == "overrides" else f"--{name.replace('_', '-')} {said}"
                    raise NoPlainFile(f"{option}: is a pipe, a device or a socket; write it to a file, and name that")

    def _check_conditions(self, options: argparse.Namespace) -> None:
        for option, conditions in self._conditions.items():
            if self._given(options, option) and not any(self._holds(options, condition) for condition in conditions):
                value = getattr(options, _name(option))
                said = option if isinstance(value, bool | list) else f"{option} {value}"
                raise OptionConflict(f"{said}: goes with {' or '.join(conditions)}; leave it out")

    def _given(self, options: argparse.Namespace, option: str) -> bool:
        # By identity: a 0 is given, and equals False.
        return getattr(options, _name(option)) is not self.get_default(_name(option))

    def _holds(self, options: argparse.Namespace, condition: str) -> bool:
        option, _, value = condition.partition(" ")
        return getattr(options, _name(option)) == value if value else self._given(options, option)

    def error(self, message: str) -> NoReturn:
        """Raises the ConfigError of a fault that argparse found."""
        code = next((code for words, code in _FAULTS.items() if words in message), "option.invalid-value")
        raise ConfigError(" ".join(message.removeprefix("argument ").split()), code=code)


def _is_plain(path: str | Path) -> bool:
    """Whether it is a file, a folder, or nothing that is there."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # perhaps no path at all
        return True
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def _name(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def run_command(
    parser: Parser,
    work: Callable[[argparse.Namespace], int | None],
    argv: Sequence[str] | None = None,
    *,
    level: int = logging.WARNING,
    interrupted: str = "interrupted",
) -> int:
    """Parses the command line and does the work, which finds the line as the user wrote it in `options.command`.

    Args:
      argv: `sys.argv` without the program, where None.
      level: of what this project's own modules log.
      interrupted: what Ctrl-C says, where the work does not handle it itself.

    Returns:
      The exit status, see `exit_codes`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = parser.parse_args(arguments)
        options.command = shlex.join([*parser.prog.split(), *arguments])
        set_up_logging(level)
        with raising_on_ctrl_c(), without_leftovers():
            return work(options) or exit_codes.DONE
    except KeyboardInterrupt:
        print(f"\n{interrupted}", file=sys.stderr)
        return exit_codes.CTRL_C
    except BaseException as raised:
        error = storage_failure(raised) or raised
        code: int | None = getattr(error, "exit_code", None)
        if code is None:
            raise
        print(last_line(error), file=sys.stderr, flush=True)
        return code


def last_line(error: BaseException) -> str:
    """What a command says of the error that ends it."""
    if getattr(error, "exit_code", None) == exit_codes.INTERRUPTED:
        return str(error)
    code = getattr(error, "code", "")
    return f"error: {error} [{code}]" if code else f"error: {error}"


def set_up_logging(level: int, libraries: Mapping[str, int] = _LIBRARIES) -> None:
    """Logs to standard error, bare lines: `level` and above of this project, of libraries warnings or less."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)  # libraries may have set a handler
    for name in _OWN if level < logging.WARNING else ():
        logging.getLogger(name).setLevel(level)
    for name, least in libraries.items():
        logging.getLogger(name).setLevel(least)
        logging.getLogger(name).addFilter(_SAID_ONCE)


def whole(least: int = 0, most: int | None = None) -> Callable[[str], int]:
    """The type of an option that takes a whole number from `least` to `most`."""
    wanted = f"a whole number from {least} to {most}" if most is not None else f"a whole number, {least} or more"
    return _number(int, wanted, lambda value: least <= value <= (math.inf if most is None else most))


def real(wanted: str, holds: Callable[[float], bool]) -> Callable[[str], float]:
    """The type of an option that takes a number for which `holds` is true, in words `wanted`."""
    return _number(float, wanted, holds)


def _number(kind: Callable[[str], T], wanted: str, holds: Callable[[T], bool]) -> Callable[[str], T]:
    def parse(text: str) -> T:
        with contextlib.suppress(ValueError):
            if holds(value := kind(text)):  # nothing holds for nan
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is invalid; write {wanted}")

    return parse


def file_or_folder(text: str) -> str:
    """The type of an option that names a file or a folder: every one has it, so that ~ is the home folder in all."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


above_zero = real("a number above 0", lambda value: 0 < value < math.inf)


def words(text: str) -> tuple[str, ...]:
    """The type of an option that takes names between commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def made_folder(path: Path, *, option: str = "--out") -> Path:
    """The folder, which is made where it is missing.

    Raises:
      ConfigError: it cannot be.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableFile(
            f"{option} {path}: cannot be made ({error.strerror or error}); name a folder that you may write"
        ) from None
    return path
