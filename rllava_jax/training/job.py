"""A run as the main job sees it, opened and checked before any parameter exists: devices, workdir, examples, model."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.errors import MissingCheckpoint
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.config import Config
from rllava_jax.config.validation import validate_patches
from rllava_jax.evaluation.run import validation_figures
from rllava_jax.inference.generator import Generator
from rllava_jax.inference.run_data import RunData, load_run_data
from rllava_jax.model.attention.fused import check_attention
from rllava_jax.model.params import Params, abstract, compute_dtype
from rllava_jax.model.sharding import check_batches, make_mesh, sharded_shapes
from rllava_jax.model.sizes import model_size
from rllava_jax.runtime import hosts
from rllava_jax.training.initialisation import resolve
from rllava_jax.training.loop import Setup
from rllava_jax.training.setup import set_up


@dataclass(frozen=True)
class Job:
    """What training and evaluation of a run share.

    Attributes:
      config: completed by the checkpoint that the run starts from.
      shapes: of the parameters, by name.
      start: that checkpoint; None where there is none, or the run is resumed.
      is_known: whether the workdir holds this run already.
    """

    config: Config
    workdir: Path
    mesh: Mesh
    data: RunData
    generator: Generator
    shapes: Mapping[str, Any]
    start: OpenedCheckpoint | None
    started_from: provenance.StartedFrom | None
    is_known: bool

    def set_up(self) -> Setup:
        """What training needs beside it; raises as `setup.set_up`."""
        assets = provenance.assets(self.config, self.data.preprocessor, self.started_from)
        validate = functools.partial(validation_figures, self.generator, self.config, self.data, self.workdir)
        return set_up(self.config, self.data, self.mesh, self.start, assets=assets, validate=validate)

    def record(self) -> None:
        """Writes the workdir's config.json and tokenizer, where they are not there yet."""
        if not self.is_known:
            provenance.write_workdir(self.workdir, self.config, self.data.tokenizer, self.started_from)

    def restored(self, checkpoints: Checkpoints, which: str) -> tuple[int, Params]:
        """The step that `which` names, and its parameters. Raises CheckpointError."""
        step = checkpoints.resolve(which)
        return step, checkpoints.restore_params(step, sharded_shapes(self.mesh, self.shapes))


def open_job(config: Config, workdir: Path, *, training: bool, later: Sequence[Config] = ()) -> Job:
    """Opens a run, new or resumed; nothing is written.

    Args:
      training: False to evaluate what was trained.
      later: the stages to come, see `run_data.load_run_data`.

    Raises:
      ConfigError: settings that do not suit model, devices or the run in the workdir; or no run to evaluate.
      DataError, CheckpointError: as `load_run_data` and `resolve`.
    """
    config, start = resolve(config, workdir)
    mesh = _mesh_of(config)
    known = provenance.check_workdir(workdir, config, evaluating=not training)
    hosts.barrier("workdir checked")  # before the first host writes it
    if not training and not known:
        raise MissingCheckpoint(f"{workdir}: holds no run to evaluate; train first, or give its --workdir")
    tokenizer = provenance.read_tokenizer(workdir) if known else start.tokenizer if start else None
    data = load_run_data(config, tokenizer=tokenizer, training=training, later=later)
    graphdef, shapes = abstract(config, vocab=data.tokenizer.vocab_size)
    generator = Generator(graphdef, data.tokenizer, mesh, new_tokens=config.evaluation.max_new_tokens)
    started_from = provenance.started_from(workdir) if known else start.record if start else None
    return Job(
        config=config,
        workdir=workdir,
        mesh=mesh,
        data=data,
        generator=generator,
        shapes=shapes,
        start=start,
        started_from=started_from,
        is_known=known,
    )


def _mesh_of(config: Config) -> Mesh:
    """The devices by their axes. Raises ConfigError where model, attention or batches do not suit them."""
    size = model_size(config.model)
    validate_patches(config, patch=size.vision.patch)
    mesh = make_mesh(config.mesh)
    device = mesh.devices.flat[0]
    check_attention(
        config.model.attention,
        size,
        device.platform,
        compute_dtype=compute_dtype(config.model.compute_dtype),
        compute_capability=getattr(device, "compute_capability", None),
    )
    check_batches(config, mesh)
    return mesh
