"""A pipe, a device or a socket under any option of any command is refused before anybody opens it."""

from __future__ import annotations

import argparse
import importlib
import os
import socket

import pytest
from expected_errors import assert_refused

from data_pipelines.core import command_line
from rllava_jax.__main__ import COMMANDS


@pytest.fixture(params=["pipe", "device", "socket", "link to a pipe"])
def unplain(request, tmp_path):
    """The path of something that is no file and no folder."""
    path = tmp_path / "named"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    elif request.param == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    return str(path)


TEXT = (None, command_line.file_or_folder)


class Found(Exception):
    """Carries a command's parser to the test."""


@pytest.fixture
def parsers(monkeypatch):
    """All parsers of a command, with those of its own commands, and how they are reached."""

    def found(module):
        def stop(parser, *_, **__):
            raise Found(parser)

        command = importlib.import_module(module)
        monkeypatch.setattr(importlib.import_module(command.main.__module__), "run_command", stop)
        with pytest.raises(Found) as caught:
            command.main([])
        monkeypatch.undo()
        todo = [((), caught.value.args[0])]
        while todo:
            words, parser = todo.pop()
            inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
            todo += [((*words, name), p) for action in inner for name, p in action.choices.items()]
            if not inner:
                yield parser

    return found


def takes_text(action):
    """Whether an option takes any text, which may be a path."""
    return action.option_strings and action.nargs in (None, 1) and action.choices is None and action.type in TEXT


@pytest.mark.parametrize("module", [module for module, _ in COMMANDS.values()])
def test_every_option_of_every_command(module, parsers, unplain):
    tried = 0
    for parser in parsers(module):
        for action in parser._actions:
            if not takes_text(action):
                continue
            options = argparse.Namespace(**{a.dest: a.default for a in parser._actions}, overrides=[])
            setattr(options, action.dest, [unplain] if isinstance(action, argparse._AppendAction) else unplain)
            with pytest.raises(command_line.NoPlainFile, match=f"--{action.dest.replace('_', '-')} {unplain}"):
                parser._check_files(options)
            tried += 1
    assert tried


def test_a_setting_that_names_one(unplain, command_line, tmp_path, capsys):
    main = importlib.import_module("rllava_jax.main").main
    arguments = ["--config", str(command_line.config), "--workdir", str(tmp_path / "run")]
    assert main([*arguments, f"--config.data.root={unplain}"]) == 2
    assert_refused(capsys.readouterr().err, "file.not-plain", "--config.data.root", unplain)
    assert main(["--config", unplain, "--workdir", str(tmp_path / "run")]) == 2
    assert_refused(capsys.readouterr().err, "file.not-plain", "--config", unplain)
