"""What makes a result reproducible, written into the workdir and into every checkpoint."""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import ConfigError, MissingFile, UnwritableFile, UserError, listed
from data_pipelines.core.paths import require_bucket
from data_pipelines.core.schemas import read_as
from data_pipelines.core.sole_writer import LOCK_FILE, sole_writer
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.settings import DataConfig, Effect, MixPart
from data_pipelines.text.tokenizer import Tokenizer
from rllava_jax import __version__
from rllava_jax.checkpoint.errors import CheckpointError, DamagedCheckpoint
from rllava_jax.config import Config
from rllava_jax.config.stored import Conversion, RunFacts, changed, from_json, run_facts, to_json
from rllava_jax.runtime import hosts

TOKENIZER_FILES = ("tokenizer.model", "tokenizer.json")  # a run has one of them
CONVERSION_FILE = "conversion.json"  # what a converter recorded of the published model; travels with its descendants
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "numpy", "pillow")


@dataclass(frozen=True)
class StartedFrom:
    """The checkpoint that a run's parameters come from.

    Attributes:
      facts: its name and step, what it was trained on and with, and what is known of its own beginning.
      conversion: its `conversion.json`, unchanged.
    """

    facts: dict[str, Any]
    conversion: bytes | None


def revision() -> str:
    """The code's git revision, "+changes" where the tree differs from it.

    Outside a checkout RLLAVA_REVISION, which launch/ sets where it copies the code, or "unknown".
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        ran = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("RLLAVA_REVISION", "unknown")


def describe(config: Config, start: StartedFrom | None = None) -> dict[str, Any]:
    """The resolved configuration, code revision and versions, and what the parameters started from."""
    return {
        "config": to_json(config),
        "rllava_jax": __version__,
        "revision": revision(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        **({"started_from": start.facts} if start is not None else {}),
    }


def owned(workdir: Path) -> contextlib.AbstractContextManager[None]:
    """Holds the workdir for this run alone, all of whose hosts count as one: the first of them has the lock.

    Raises:
      ConfigError: it is a file, cannot be written, or its bucket cannot be opened. InUse: another run writes there.
    """
    _require_folder(workdir)
    if jax.process_index():
        return contextlib.nullcontext()
    return sole_writer(workdir / LOCK_FILE, what=f"--workdir {workdir}")


def _require_folder(workdir: Path) -> None:
    require_bucket(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError(f"--workdir {workdir}: is a file; give a folder", code="file.not-a-folder")


def check_workdir(workdir: Path, config: Config, *, evaluating: bool = False) -> bool:
    """Whether the workdir already holds a run, which must be of this very configuration.

    Args:
      evaluating: the run is only evaluated again, which may be done in another way.

    Raises:
      ConfigError: it holds a run of another configuration; the differing fields are named. Or its bucket cannot be
        opened.
    """
    _require_folder(workdir)
    path = workdir / "config.json"
    if not path.exists():
        if workdir.exists() and any((workdir / name).exists() for name in ("checkpoints", "metrics.jsonl")):
            raise MissingFile(f"{path}: missing beside an earlier run's files; choose another --workdir")
        return False
    effects = (Effect.NOTHING, *((Effect.EVALUATION,) if evaluating else ()))
    stored = stored_config(workdir)
    if names := changed(to_json(from_json(stored, where=str(path))), to_json(config), besides=effects):
        raise ConfigError(
            f"{path}: this workdir holds a run with another {listed(names, 6)}; choose another --workdir, or remove "
            "this one",
            code="config.other-run",
        )
    return True


def stored_config(workdir: Path) -> dict[str, Any]:
    """The configuration in a workdir that `check_workdir` has accepted."""
    return run_facts(workdir)["config"]


def started_from(workdir: Path) -> StartedFrom | None:
    """What the run in a workdir started from; None is random parameters."""
    facts = run_facts(workdir).get("started_from")
    conversion = workdir / CONVERSION_FILE
    return StartedFrom(facts, conversion.read_bytes() if conversion.is_file() else None) if facts else None


def read_tokenizer(workdir: Path) -> Tokenizer:
    """The run's tokenizer.

    Raises:
      ConfigError: it is missing, or not the one that the run began with.
    """
    present = [name for name in TOKENIZER_FILES if (workdir / name).is_file()]
    remedy = "leave there the tokenizer file of checkpoints/STEP/assets of this run"
    path = workdir / _the_tokenizer(present, workdir, remedy, ConfigError)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != run_facts(workdir)["tokenizer_sha256"]:
        raise DamagedCheckpoint(
            f"{path}: is not the run's own; copy checkpoints/STEP/assets/{path.name} of this run over it"
        )
    return Tokenizer(content, str(path))


def write_workdir(workdir: Path, config: Config, tokenizer: Tokenizer, start: StartedFrom | None = None) -> None:
    """Writes the tokenizer, and then config.json: a workdir holds a run once that stands in it.

    The first host writes; the others wait for it.
    """
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnwritableFile(
                f"--workdir {workdir}: cannot be made ({error}); give a folder that you may write"
            ) from None
        (workdir / tokenizer.file_name).write_bytes(tokenizer.file)
        if start is not None and start.conversion is not None:
            (workdir / CONVERSION_FILE).write_bytes(start.conversion)
        facts = describe(config, start) | {"tokenizer_sha256": tokenizer.sha256}
        write_atomically(workdir / "config.json", json.dumps(facts, indent=2) + "\n")
    hosts.barrier("workdir written")


def assets(config: Config, preprocessor: Preprocessor, start: StartedFrom | None = None) -> dict[str, bytes]:
    """The files that travel inside each checkpoint: all that prediction needs besides the weights."""
    tokenizer = preprocessor.tokenizer
    preprocessing = {
        "image_size": preprocessor.image_size,
        "patch_size": preprocessor.patch_size,
        "resize": "bilinear with antialiasing, aspect ratio ignored, truncated to uint8",
        "pixel_range": "x / 127.5 - 1",
        "window": config.data.window,
        "prompt": config.data.prompt,
        "tokenizer_sha256": tokenizer.sha256,
    }
    files = {
        "config.json": json.dumps(describe(config, start), indent=2).encode(),
        "preprocessing.json": json.dumps(preprocessing, indent=2).encode(),
        tokenizer.file_name: tokenizer.file,
    }
    if start is not None and start.conversion is not None:
        files[CONVERSION_FILE] = start.conversion
    return files


def training_facts(config: Config) -> dict[str, Any]:
    """What a run trained on and with, as its descendants remember it: JSON values, and no path of its machine."""
    lora, policy = config.lora, config.data.policy
    return {
        **_data_facts(config.data),
        "batch_size": config.train.batch_size,
        "learning_rate": config.optimizer.learning_rate,
        "seed": config.seed,
        "trainable": list(config.optimizer.trainable),
        "lora": {"rank": lora.rank, "alpha": lora.alpha, "targets": list(lora.targets)} if lora.rank else {},
        "regions": list(config.regions.encoders),
        "shown": policy.shown,
        "wrong": policy.wrong,
    }


def _data_facts(data: DataConfig) -> dict[str, Any]:
    drawn = [part for part in data.mix.values() if part.drawn]
    parts = drawn or [MixPart(data.source, data.root, split=data.train_split, languages=data.languages)]
    sources = [
        _data_name(part) + (f" (shown in {own.shown:.0%}, wrong {own.wrong:.0%})" if (own := part.policy) else "")
        for part in parts
    ]
    return {
        "data": ", ".join(dict.fromkeys(sources)),
        "split": ", ".join(dict.fromkeys(part.split for part in parts)),
        "languages": list(dict.fromkeys(language for part in parts for language in part.languages)),
    }


def _data_name(part: MixPart) -> str:
    """The data set; of a prepared one the name of its folder, without where that lies."""
    return f"{part.source} {Path(part.root).name}" if part.source == "prepared" else part.source


def config_from_assets(files: Mapping[str, bytes], *, where: str) -> Config:
    """The configuration that a checkpoint was trained with.

    Raises:
      CheckpointError: the file is missing or damaged; it is named.
    """
    return from_json(_json_of(files, "config.json", where)["config"], where=f"{where}/assets/config.json")


def tokenizer_from_assets(files: Mapping[str, bytes], *, where: str) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Raises:
      CheckpointError: there is none, or there are two.
      DataError: the file is no tokenizer.
    """
    folder, remedy = f"{where}/assets", "the checkpoint is damaged, take another step"
    name = _the_tokenizer([name for name in TOKENIZER_FILES if name in files], folder, remedy, CheckpointError)
    return Tokenizer(files[name], f"{folder}/{name}")


def _the_tokenizer(present: Sequence[str], folder: object, remedy: str, kind: type[UserError]) -> str:
    """The one tokenizer file of those that lie in a folder; raises that kind of error where there is not one."""
    if len(present) != 1:
        path = f"{folder}/{' and '.join(present) or TOKENIZER_FILES[0]}"
        fault = "only one of them belongs there" if present else "missing"
        raise kind(f"{path}: {fault}; {remedy}", code="checkpoint.damaged")
    return present[0]


def start_of(files: Mapping[str, bytes], *, name: str, step: int, where: str) -> StartedFrom:
    """What a run that starts from a checkpoint records of it.

    Args:
      files: the checkpoint's assets. name: of its run or imported model.

    Raises:
      CheckpointError: a file is damaged; it is named.
    """
    facts: dict[str, Any] = {"name": name, "step": step}
    if step:  # an imported model's configuration is not that of a training
        facts["trained"] = training_facts(config_from_assets(files, where=where))
    if before := _json_of(files, "config.json", where).get("started_from"):
        facts["started_from"] = before
    elif CONVERSION_FILE in files:  # the model was imported; its converter recorded of what
        facts["conversion"] = _json_of(files, CONVERSION_FILE, where)
    return StartedFrom(facts, files.get(CONVERSION_FILE))


def _json_of(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    path = f"{where}/assets/{name}"
    if name not in files:
        raise DamagedCheckpoint(f"{path}: missing; the checkpoint is damaged, take another step")
    kind: Any = {"config.json": RunFacts, CONVERSION_FILE: Conversion}.get(name, dict[str, Any])
    return dict(read_as(kind, files[name], path, remedy="take another step", error=CheckpointError))
