"""Orbax checkpoints: parameters, optimiser, data position, and what a result needs to be reproduced.

    checkpoints/STEP/params      every parameter, trained and frozen, under its published name
    checkpoints/STEP/training    step and optimiser state
    checkpoints/STEP/data        the data iterator's position: one for all hosts, so that their number may change
    checkpoints/STEP/checksums   of every array of params and training; see checkpoint/integrity.py
    checkpoints/STEP/assets      config.json, the tokenizer's file, preprocessing.json: prediction needs nothing else;
                                 their checksums in SHA256SUMS

An imported model has params, checksums and assets only. A checkpoint is written beside its place and renamed, so that
a kill at any moment leaves the earlier ones whole; in a bucket, which cannot rename, one is whole when its
commit_success.txt stands, which is written last. One that turns out to be damaged is set aside as STEP.damaged, never
deleted.
"""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from data_pipelines.core.errors import DataError, listed
from data_pipelines.core.json_files import parse_json
from data_pipelines.core.paths import absolute, require_bucket
from rllava_jax.checkpoint.errors import CheckpointError, DamagedCheckpoint, MissingCheckpoint
from rllava_jax.checkpoint.foreign_models import unusable_weights
from rllava_jax.checkpoint.integrity import checksums
from rllava_jax.checkpoint.orbax_files import Assets, AssetsHandler, require_items, set_unreadable_aside, write_figures
from rllava_jax.runtime import hosts

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 2**27


def find_checkpoint(path: Path, step: str | None = None) -> tuple[Path, str]:
    """The checkpoint folder and step that a path means: a workdir, its `checkpoints`, or one step in it.

    An imported model's folder is laid out as a workdir's.

    Args:
      step: last, best or a number, where the path does not name one; None is last.

    Raises:
      CheckpointError: the path is none of these, or names another step.
      ConfigError: its bucket cannot be opened.
    """
    require_bucket(path)
    if path.name.isdigit() and (path / "params").is_dir():
        if step not in (None, path.name):
            raise CheckpointError(
                f"--step {step}: beside {path}, which is step {path.name}; leave one of the two out",
                code="option.conflict",
            )
        return path.parent, path.name
    for folder in (path / "checkpoints", path):
        if folder.is_dir() and any(child.name.isdigit() for child in folder.iterdir()):
            return folder, step or "last"
    if said := unusable_weights(path):
        raise CheckpointError(f"{path}: {said}", code="import.unsupported")
    published = (path / "config.json").is_file() and any(path.glob("*.safetensors"))
    if published or path.suffix == ".npz":
        raise CheckpointError(
            f"{path}: is to be imported first: python -m rllava_jax.convert import {path} FOLDER",
            code="checkpoint.not-imported",
        )
    raise MissingCheckpoint(
        f"{path}: holds no checkpoint; give a run's workdir, an imported model, or a folder checkpoints/STEP in one"
    )


def _save_args(params: Mapping[str, Any]) -> dict[str, ocp.SaveArgs]:
    """Large arrays are stored in chunks, a stack's layers apart, so that a part can be read without the whole."""
    # Orbax cuts the named axis to single rows, which suits layers; else the longest axis, to the size.
    axes = {name: (0,) if value.ndim > 2 else () for name, value in params.items() if value.nbytes > _CHUNK_BYTES}
    chunks = {name: ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES, shard_axes=along) for name, along in axes.items()}
    return dict.fromkeys(params, ocp.SaveArgs()) | chunks


class Checkpoints:
    """The checkpoints of one run. Use as a context manager: leaving waits for a save under way."""

    def __init__(self, folder: Path, *, keep_last: int = 1, best_metric: str = "", read_only: bool = False):
        """Opens `folder`, which is made unless read_only.

        Args:
          keep_last: so many of the newest are kept, and the best one.
          best_metric: name of the validation figure that decides which is best; higher is better. A folder opened to
            be read may leave it out: the run's own stands in its checkpoints.
        """
        self.folder = folder = absolute(folder)  # Orbax reads no other path
        self._best_metric = best_metric
        self._handlers: dict[str, Any] = {
            "params": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "data": ocp.JsonCheckpointHandler("position.json"),
            "checksums": ocp.JsonCheckpointHandler("checksums.json"),
            "assets": AssetsHandler(),
        }
        if read_only and not folder.is_dir():
            raise MissingCheckpoint(f"{folder}: there is no checkpoint folder; train first, or give another workdir")

        def figure(metrics: Mapping[str, float]) -> float:
            return metrics[best_metric]

        best = checkpoint_managers.BestN(get_metric_fn=figure, n=1, keep_checkpoints_without_metrics=False)
        policy = checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(keep_last), best])
        if not read_only:
            set_unreadable_aside(folder)
        self._manager = ocp.CheckpointManager(
            epath.Path(folder),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy, best_fn=figure, create=not read_only, read_only=read_only
            ),
            item_handlers=self._handlers,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Closing waits for all hosts: one that fails alone leaves first (`hosts.shared_failures`).
        if kind is None or not hosts.several():
            self._manager.close()

    def steps(self) -> list[int]:
        """Steps that are whole on disk, oldest first."""
        return sorted(self._manager.all_steps())

    def resolve(self, which: str) -> int:
        """The step that "last", "best" or a number names.

        Raises:
          CheckpointError: there is none.
        """
        steps = self.steps()
        if not steps:
            raise MissingCheckpoint(f"{self.folder}: there is no finished checkpoint in it; train first")
        if which == "last":
            return steps[-1]
        if which == "best":
            return self._best()
        if not which.isdigit() or int(which) not in steps:
            raise MissingCheckpoint(f"{self.folder}: there is no step {which!r}; choose last, best or one of {steps}")
        return int(which)

    def _best(self) -> int:
        name = self._best_metric
        if not name:
            files = self.assets(self.steps()[-1])
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged file names no figure
                name = parse_json(files["config.json"], "config.json", remedy="")["config"]["train"]["best_metric"]
        figures = {step: (self._manager.metrics(step) or {}).get(name) for step in self.steps()}
        validated = [(figure, step) for step, figure in figures.items() if figure is not None]
        if not validated:
            raise CheckpointError(
                f"{self.folder}: no checkpoint carries validation figures; set train.evaluate_every, or take 'last'",
                code="checkpoint.not-validated",
            )
        return max(validated)[1]

    def save(self, step: int, params: Mapping[str, Any], training: Any, data: Any, assets: Mapping[str, bytes]) -> None:
        """Saves in the background; returns when the arrays have been copied and may be changed.

        Args:
          params: every parameter, by name.
          training: what else a step changes, as a pytree.
          data: the Grain iterator, whose state is the same on every host.
          assets: file name → content.
        """
        arrays = {"params": dict(params), "training": training}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(arrays["params"], save_args=_save_args(params)),
                training=ocp.args.StandardSave(training),
                data=ocp.args.JsonSave(data.get_state()),
                checksums=ocp.args.JsonSave(checksums(arrays)),
                assets=Assets(assets),
            ),
        )

    def add_figures(self, step: int, figures: Mapping[str, float]) -> None:
        """Gives a checkpoint its validation figures after the save, when the validation took place.

        The state is safe before a long validation begins. Without the deciding figure among them the checkpoint is no
        candidate for the best.
        """
        if self._best_metric not in figures:
            return
        self.wait()
        if jax.process_index() == 0:
            write_figures(self._folder(step), figures)
        hosts.barrier("figures written")
        self._manager.reload()

    def has_figures(self, step: int) -> bool:
        """Whether `step` was validated."""
        return bool(self._manager.metrics(step))

    def wait(self) -> None:
        """Returns when a save under way is on disk."""
        self._manager.wait_until_finished()

    def restore_newest(self, params: Mapping[str, Any], training: Any, data: Any) -> tuple[int, dict[str, Any], Any]:
        """Step, parameters and training state of the newest checkpoint that is whole; `data` is put in its place.

        Newer ones that cannot be read are named in a warning and set aside, once one is found that can be.

        Args:
          params, training: as of `restore`.

        Raises:
          CheckpointError: none can be read; all are left where they are. The error is the newest one's.
        """
        damaged: list[tuple[int, CheckpointError]] = []
        for step in reversed(self.steps()):
            try:
                restored = self.restore(step, params, training, data)
            except CheckpointError as error:
                # Without its traceback, whose frames hold the arrays that were read: a second copy of the state.
                damaged.append((step, type(error)(str(error), code=error.code)))
                continue
            for newer, reason in damaged:
                self._set_aside(newer, reason, step)
            return step, *restored
        raise damaged[0][1]

    def _set_aside(self, step: int, error: CheckpointError, used: int) -> None:
        place = self._folder(step)
        names = (f"{step}.damaged", *(f"{step}.damaged-{number}" for number in range(2, 1000)))
        aside = next(path for path in map(place.with_name, names) if not path.exists())
        hosts.barrier("damaged checkpoint named")  # before the first host renames what the others look at
        if jax.process_index() == 0:
            place.rename(aside)
            reason = str(error).removeprefix(f"{place}: ").rsplit("; ", 1)[0]
            logger.warning("%s: %s; renamed to %s, going on from step %d", place, reason, aside.name, used)
        hosts.barrier("damaged checkpoint set aside")
        self._manager.reload()

    def restore(self, step: int, params: Mapping[str, Any], training: Any, data: Any) -> tuple[dict[str, Any], Any]:
        """Parameters and training state of `step`; `data` is put in its place.

        Args:
          params, training: shapes with shardings: each array is read straight to where it will live.

        Raises:
          CheckpointError: files are missing, truncated or changed, or of another model; on all hosts alike.
        """
        items = self._read(
            step,
            params=self._reader("params", dict(params)),
            training=self._reader("training", training),
            assets=self._handlers["assets"].restore,
            data=lambda folder: self._put_in_place(data, step, folder),
        )
        self._verify(step, {"params": items["params"], "training": items["training"]})
        return items["params"], items["training"]

    def restore_params(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters alone. Raises as `restore`."""
        stored = self.shapes(step)
        kept = {n: shape for n, shape in abstract.items() if n not in stored or shape.dtype == stored[n].dtype}
        params = self._verified(step, kept, others=abstract.keys() - kept.keys())
        # One that is read into another type would have other bits: it is verified first, and cast one at a time.
        for name in abstract.keys() - kept.keys() if len(kept) < len(abstract) else ():
            wanted = abstract[name]
            target = jax.ShapeDtypeStruct(wanted.shape, stored[name].dtype, sharding=wanted.sharding)
            read = self._verified(step, {name: target}, others=abstract.keys() - {name})
            cast = jax.jit(lambda x, dtype=wanted.dtype: x.astype(dtype), out_shardings=wanted.sharding)
            params[name] = cast(read[name])
        return {name: params[name] for name in abstract}

    def _verified(self, step: int, target: Mapping[str, Any], *, others: Collection[str]) -> dict[str, Any]:
        """The parameters of `target`, in their own types; `others` are read apart."""

        def read(folder: epath.Path) -> Any:
            extra = self._manager.item_metadata(step)["params"].tree.keys() - target.keys() - set(others)
            # Heads that this process does not know stay on disk (`model/params.py`).
            if not (extra or others) or not all(name.startswith("heads/") for name in extra):
                return self._reader("params", dict(target))(folder)
            kinds = ocp.checkpoint_utils.construct_restore_args(dict(target))
            args = ocp.args.PyTreeRestore(dict(target), restore_args=kinds, partial_restore=True)
            return ocp.PyTreeCheckpointHandler().restore(folder, args=args)

        params = self._read(step, params=read)["params"] if target else {}
        self._verify(step, {"params": params})
        return params

    def _reader(self, item: str, target: Any) -> Callable[[epath.Path], Any]:
        return lambda folder: self._handlers[item].restore(folder, args=ocp.args.StandardRestore(target))

    def _put_in_place(self, data: Any, step: int, folder: epath.Path) -> None:
        position = self._handlers["data"].restore(folder)
        # Invariant 2 of training/loop.py. Any other number would repeat or leave out batches without a word.
        batch = position.get("next_batch", step)
        if batch != step:
            raise ValueError(f"its data position is batch {batch}, step {step} goes on with batch {step}")
        data.set_state(position)

    def _verify(self, step: int, arrays: Mapping[str, Any]) -> None:
        """Compares what was read with the checksums of what was saved; older imports have none."""
        if not hosts.everywhere((self._folder(step) / "checksums").exists()):
            return
        stored = self._read(step, checksums=self._handlers["checksums"].restore)["checksums"]
        if changed := [name for name, value in checksums(arrays).items() if stored.get(name) != value]:
            raise self._unreadable(step, f"{listed(changed, 3)}: not the numbers that were saved, by their checksum")

    def shapes(self, step: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and types of the stored parameters by name; no array is read. Raises as `restore`."""
        with self._naming(step):
            stored = self._manager.item_metadata(step)["params"].tree
            return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in stored.items()}

    def assets(self, step: int) -> dict[str, bytes]:
        """File name → content. Raises as `restore`."""
        return self._read(step, assets=self._handlers["assets"].restore)["assets"]

    def _folder(self, step: int) -> epath.Path:
        return epath.Path(self.folder) / str(step)

    def _read(self, step: int, **items: Callable[[epath.Path], Any]) -> dict[str, Any]:
        """Reads items, each by its handler. On several hosts all succeed or all raise.

        Not through the manager, whose restore waits for all hosts at its end: one that fails would leave the others
        waiting.
        """
        failed: CheckpointError | None = None
        read = {}
        try:
            with self._naming(step):
                # Without these a checkpoint could be read, but not verified, or not be used.
                require_items(self._folder(step), "assets", "checksums")
                for name, restore in items.items():
                    folder = self._folder(step) / name
                    if not folder.is_dir():
                        raise FileNotFoundError(f"its folder {name} is missing")
                    read[name] = restore(folder)
        except CheckpointError as error:
            failed = error
        if not hosts.everywhere(failed is None):
            raise failed or self._unreadable(step, "on another host")
        return read

    @contextlib.contextmanager
    def _naming(self, step: int) -> Iterator[None]:
        """Whatever goes wrong while `step` is read becomes one line that names its folder."""
        try:
            yield
        except DataError:  # the data iterator's own: the checkpoint is whole, the data is another
            raise
        except Exception as error:  # Orbax, TensorStore and Grain each raise their own
            # TensorStore's own words stand before Orbax's dump of its objects.
            reason = " ".join(str(error).split("See full TensorStore details")[0].split())
            raise self._unreadable(step, reason[:300]) from error

    def _unreadable(self, step: int, reason: str) -> CheckpointError:
        others = [other for other in self.steps() if other != step]
        remedy = f"move that folder away to go on from step {others[-1]}" if others else "it is the only one"
        return DamagedCheckpoint(f"{self.folder / str(step)}: the checkpoint cannot be read ({reason}); {remedy}")
