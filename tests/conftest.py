"""Set up for every test: eight host devices, no accelerator, and the real data sets where they are at hand."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

# JAX reads both when it is first imported, which no test has done yet.
os.environ["JAX_PLATFORMS"] = "cpu"
# Programs here are compiled once and run for a moment, so compiling them well costs more than it gives: half the time.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)

import pytest

# A shell starts what it runs in the background with Ctrl-C ignored, and programs pass that on: tests that interrupt one
# would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_ROOT = Path(__file__).parents[1]
# What `--fast` leaves out: files that bring a second framework or start programs, and fixtures that train a run first.
_OTHER_FRAMEWORKS = re.compile(
    r"^\s*(import|from) (torch|transformers|peft|converted|tiny_models|other_transformers|ask_exported)\b", re.MULTILINE
)
_STARTS_PROGRAMS = re.compile(r"\b(subprocess\.(run|Popen|check_output)|sys\.executable)\b")
_TRAINS = {"finished_run", "finished_stages", "stages", "said", "command_line"}
_DATA = Path(os.environ.get("RLLAVA_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fast`, for `make test-fast`."""
    parser.addoption(
        "--fast", action="store_true", help="no second framework, no training process, nothing marked slow"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files that `--fast` does not even import: PyTorch alone takes seconds."""
    if not config.getoption("--fast") or collection_path.suffix != ".py":
        return None
    source = collection_path.read_text(encoding="utf-8")
    return bool(_OTHER_FRAMEWORKS.search(source) or _STARTS_PROGRAMS.search(source)) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the other files, tests that train a run first or are marked slow."""
    if not config.getoption("--fast"):
        return
    left_out = [item for item in items if item.get_closest_marker("slow") or _TRAINS & set(_fixtures(item))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def _fixtures(item: pytest.Item) -> Sequence[str]:
    return getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def slake_root() -> str:
    """Folder of the published SLAKE files."""
    return _published(_DATA / "slake", "train.json")


@pytest.fixture(scope="session")
def vqa_rad_root() -> str:
    """Folder of the published VQA-RAD files."""
    return _published(_DATA / "vqa_rad", "VQA_RAD Dataset Public.json")


# The whole job in seconds: few, small images, the tiny size at 16 patches, and four checkpoints.
TINY_RUN = """
from rllava_jax.config import *

config = Config(
    model=ModelConfig(image_size=56),
    regions=RegionConfig(crop_size=28, tokens=4),
    data=DataConfig(
        families={"vqa": 0.5, "identify": 0.5},
        tokenizer_vocab=599,  # 1,752 ids in all, which two devices can share
        text_length=32,
        phantom=PhantomConfig(train_images=5, validate_images=8, test_images=8, image_size=96),
    ),
    train=TrainConfig(
        duration="14 steps",
        batch_size=8,
        log_every="1 steps",
        checkpoint_every="4 steps",
        evaluate_every="8 steps",
        log_examples=True,
        compilation_cache=COMPILED,
    ),
    evaluation=EvaluationConfig(
        families=("vqa", "identify"),
        batch_size=8,
        max_new_tokens=6,
        max_examples=8,
        during_examples=4,
        bootstrap=20,
        gallery=2,
    ),
)
"""


class CommandLine(NamedTuple):
    """The entry points as a user starts them: a process of their own, on one device unless the call says otherwise."""

    config: Path

    def main(self, workdir: Path, *arguments: str) -> list[str]:
        """The command that trains or evaluates the tiny run."""
        command = ("-m", "rllava_jax.main", "--config", str(self.config), "--workdir", str(workdir))
        return [sys.executable, *command, *arguments]

    def start(
        self, command: Sequence[str], *, devices: int = 1, own_group: bool = False, **variables: str
    ) -> subprocess.Popen[str]:
        """Starts a command, with more environment variables."""
        flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, **variables}
        return subprocess.Popen(
            command,
            cwd=_ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=own_group,
        )

    def run(self, command: Sequence[str], *, devices: int = 1, **variables: str) -> tuple[int, str, str]:
        """Runs a command to its end: exit status, standard output, standard error."""
        process = self.start(command, devices=devices, **variables)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err


@pytest.fixture(scope="session")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """The command line, with the tiny run's configuration."""
    folder = tmp_path_factory.mktemp("config")
    config = folder / "tiny_run.py"
    # Shared by all the processes of a session, which compile the same programs.
    config.write_text(TINY_RUN.replace("COMPILED", repr(str(folder / "compiled"))))
    return CommandLine(config)


@pytest.fixture(scope="session")
def finished_run(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a tiny run that was never interrupted. Copy it before changing anything in it."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    status, _, err = command_line.run(command_line.main(workdir))
    assert status == 0, err
    return workdir


# Two short stages of that job, the second on a mix.
STAGES = """
from dataclasses import replace

base = replace(
    config,
    train=replace(config.train, duration="6 steps", evaluate_every="never"),
    evaluation=replace(config.evaluation, conditions=("right",), max_examples=4),
)
mix = {
    "asked": MixPart(families={"vqa": 1.0}, policy=PolicyConfig(shown=0.0)),
    "marked": MixPart(families={"identify": 1.0}, anneal=((0.5, 0.0), (1.0, 1.0))),
}
config = Curriculum({
    "align": Stage(replace(base, optimizer=OptimizerConfig(learning_rate=2e-3, trainable=("img/head/.*", "roi/.*")))),
    "task": Stage(replace(base, data=replace(base.data, mix=mix), train=replace(base.train, duration="9 steps"))),
})
"""


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """The command line, with a configuration of two stages."""
    folder = tmp_path_factory.mktemp("stages")
    file = folder / "two_stages.py"
    file.write_text(TINY_RUN.replace("COMPILED", repr(str(folder / "compiled"))) + STAGES)
    return CommandLine(file)


@pytest.fixture(scope="session")
def finished_stages(stages: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of the two stages, never interrupted. Copy it before changing anything in it."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    status, _, err = stages.run(stages.main(workdir))
    assert status == 0, err
    return workdir


@pytest.fixture
def said(stages: CommandLine, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the two stages' main in this process and returns its status and what it said last."""
    from rllava_jax import main as entry

    def run(workdir: Path, *arguments: str) -> tuple[int, str]:
        command = stages.main(workdir, *arguments)
        status = entry.main(command[command.index("rllava_jax.main") + 1 :])
        return status, capsys.readouterr().err.splitlines()[-1]

    return run


def _published(root: Path, file: str) -> str:
    if not (root / file).is_file():
        message = f"needs the published data: no {file!r} in {root} (set RLLAVA_DATA to the folder above it)"
        if os.environ.get("RLLAVA_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)
    return str(root)
