"""Set up for every test: eight host devices, no accelerator, and the real data sets where they are at hand."""

from __future__ import annotations

import fcntl
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
# Programs here are compiled once and run for a moment, so compiling them well costs more than it gives: a third of the
# time. What tests start inherits these flags, and adds its own number of devices, which counts.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_force_host_platform_device_count=8"
)
# All processes of a session, and later sessions, share what they compile, however quickly it compiled.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Arrays here are small: threads that share them out wait for one another, and take the cores of the other workers.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pytest
from preloaded import Fork

# A shell starts what it runs in the background with Ctrl-C ignored, and programs pass that on: tests that interrupt one
# would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_ROOT = Path(__file__).parents[1]
# Of the programs that users start, who have no second framework.
_USERS_PATH = os.pathsep.join([str(_ROOT / "tests" / "without_oracles"), *filter(None, [os.environ.get("PYTHONPATH")])])
# What `--fast` leaves out: files that bring a second framework or start programs, and fixtures that train a run first.
_OTHER_FRAMEWORKS = re.compile(
    r"^\s*(import|from) (torch|transformers|peft|converted|tiny_models|other_transformers|ask_exported)\b", re.MULTILINE
)
_STARTS_PROGRAMS = re.compile(r"\b(from chromium|subprocess\.(run|Popen|check_output)|sys\.executable|launch_world)\b")
_TRAINS = {"finished_run", "finished_stages", "stages", "said", "command_line"}
# The files that take longest, longest first: one that began last would keep one worker when the others are through.
_LONGEST = [
    "test_two_processes",
    "test_resume",
    "test_main",
    "test_cloud",
    "test_curriculum",
    "test_initialisation",
    "test_sharding",
    "test_predict",
    "test_bad_steps",
    "test_curriculum_checks",
    "test_launch_tpu_vm",
    "test_launch_gpu_machine",
    "test_exported_example",
    "test_calibrate",
    "test_attention",
    "test_lora",
    "test_training",
    "test_decoder_seam",
    "test_regions",
    "test_convert_lora",
    "test_remote_code",
    "test_run_checkpoint",
    "test_decode",
    "test_paligemma",
    "test_convert",
    "test_scaling_law",
    "test_planning",
]
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
    """The longest files first; with `--fast`, without tests that train a run first or are marked slow."""
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
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
    """The entry points as users start them: each a process of its own, on one device unless the call says otherwise."""

    config: Path

    def main(self, workdir: Path, *arguments: str) -> list[str]:
        """The command that trains or evaluates the tiny run."""
        command = ("-m", "rllava_jax.main", "--config", str(self.config), "--workdir", str(workdir))
        return [sys.executable, *command, *arguments]

    def start(
        self,
        command: Sequence[str],
        *,
        devices: int = 1,
        own_group: bool = False,
        anew: bool = False,
        **variables: str,
    ) -> subprocess.Popen[str]:
        """Starts a command, with more environment variables.

        Args:
          anew: starts Python anew also for the project's modules, which are else forked from its libraries.
        """
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": flags,
            "PYTHONPATH": _USERS_PATH,
            **variables,
        }
        forked = not anew and tuple(command[:2]) == (sys.executable, "-m")
        if forked:
            environment.setdefault("GLIBC_TUNABLES", "")  # what sets them starts Python anew
        return (Fork if forked else subprocess.Popen)(
            command,
            cwd=_ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=own_group,
        )

    def run(
        self, command: Sequence[str], *, devices: int = 1, anew: bool = False, **variables: str
    ) -> tuple[int, str, str]:
        """Runs a command to its end: exit status, standard output, standard error."""
        process = self.start(command, devices=devices, anew=anew, **variables)
        out, err = process.communicate(timeout=300)
        return process.returncode, out, err


@pytest.fixture(scope="session")
def command_line(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """The command line, with the tiny run's configuration."""
    folder = tmp_path_factory.mktemp("config")
    config = folder / "tiny_run.py"
    # The run's own cache, for tests of it; the environment's goes before it.
    config.write_text(TINY_RUN.replace("COMPILED", repr(str(folder / "compiled"))))
    return CommandLine(config)


def _trained_once(command_line: CommandLine, name: str, factory: pytest.TempPathFactory) -> Path:
    """The workdir of a finished run, trained by the first of the session's workers that needs it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder = root / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            status, _, err = command_line.run(command_line.main(folder / "finished"), anew=True)
            assert status == 0, err
            (folder / "done").touch()
    return folder / "finished"


@pytest.fixture(scope="session")
def finished_run(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a tiny run that was never interrupted. Copy it before changing anything in it."""
    return _trained_once(command_line, "trained_run", tmp_path_factory)


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
    return _trained_once(stages, "trained_stages", tmp_path_factory)


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
