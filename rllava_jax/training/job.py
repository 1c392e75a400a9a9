"""A run as the main job sees it, opened and checked before any parameter exists: devices, workdir, examples, model.

Of a run that trains, also all that it needs before its first step, made and checked before anything is written.
"""

import functools
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipelines.loading.loader import TrainingIterator, examples_per_epoch, mixed_iterator, training_iterator
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.errors import MissingCheckpoint
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.config import Config
from rllava_jax.config.validation import validate_patches
from rllava_jax.evaluation.run import validation_figures
from rllava_jax.inference.generator import Generator
from rllava_jax.inference.run_data import RunData, load_run_data
from rllava_jax.model.attention.attend import check_attention
from rllava_jax.model.lora import is_adapter
from rllava_jax.model.params import Params, abstract
from rllava_jax.model.sharding import check_batches, make_mesh, sharded_shapes, to_devices
from rllava_jax.model.sizes import model_size
from rllava_jax.runtime import hosts
from rllava_jax.training.initialisation import origins, resolve
from rllava_jax.training.log_writers import require_wandb
from rllava_jax.training.loop import Setup
from rllava_jax.training.program import initial_state, make_program, restored_state
from rllava_jax.training.run_length import run_length
from rllava_jax.training.state import TrainState
from rllava_jax.training.step import make_train_step

logger = logging.getLogger(__name__)


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
        """What training needs beside it: shapes, then shardings; no array is made here.

        Raises:
          ConfigError: a duration, name pattern or mesh that does not fit the data, the parameters or the devices; or a
            checkpoint of another model.
          DataError: a question family of positive weight without examples.
        """
        config, data, mesh = self.config, self.data, self.mesh
        if config.train.wandb_project:
            require_wandb(config.train.wandb_project)
        epoch = len(data.train) if data.parts else examples_per_epoch(data.train, config.data.families)
        length, vocab = run_length(config, examples_per_epoch=epoch), data.tokenizer.vocab_size
        program = make_program(config, mesh, vocab=vocab, steps=length.steps, warmup=length.warmup)
        shapes = program.abstract.params | program.abstract.frozen
        origin = origins(config, shapes, self.start)
        batches = _batches(config, data, steps=length.steps)

        def initialise() -> TrainState:
            logger.info("parameters:\n%s", parameter_table(program.abstract, origin))
            return initial_state(config, program, pretrained=self.start, vocab=vocab)

        def restore(checkpoints: Checkpoints) -> TrainState:
            logger.info("parameters:\n%s", parameter_table(program.abstract, dict.fromkeys(origin, "resumed")))
            return restored_state(checkpoints, program, batches)

        return Setup(
            length=length,
            step=make_train_step(program, config, mesh),
            data=batches,
            to_devices=functools.partial(to_devices, mesh=mesh),
            initialise=initialise,
            restore=restore,
            validate=functools.partial(validation_figures, self.generator, config, data, self.workdir),
            names=[example.id for example in data.train],
            assets=provenance.assets(config, data.preprocessor, self.started_from),
        )

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
    size = model_size(config.model)
    validate_patches(config, patch=size.vision.patch)
    mesh = make_mesh(config.mesh)
    device = mesh.devices.flat[0]
    capability = getattr(device, "compute_capability", None)
    check_attention(config.model, size, device.platform, compute_capability=capability)
    check_batches(config, mesh)
    known = provenance.check_workdir(workdir, config, evaluating=not training)
    hosts.barrier("workdir checked")  # before the first host writes it
    if not training and not known:
        raise MissingCheckpoint(f"{workdir}: holds no run to evaluate; train first, or give its --workdir")
    tokenizer = provenance.read_tokenizer(workdir) if known else start.tokenizer if start else None
    data = load_run_data(config, tokenizer=tokenizer, training=training, later=later)
    graphdef, shapes = abstract(config, vocab=data.tokenizer.vocab_size)
    generator = Generator(graphdef, data.tokenizer, mesh, new_tokens=config.evaluation.max_new_tokens)
    started_from = provenance.started_from(workdir) if known else start.record if start else None
    return Job(config, workdir, mesh, data, generator, shapes, start, started_from, known)


def _batches(config: Config, data: RunData, *, steps: int) -> TrainingIterator:
    """This host's batches of the run."""
    shared: dict[str, Any] = {
        "batch_size": config.train.batch_size,
        "seed": config.seed,
        "data": config.data,
        "process_index": jax.process_index(),
        "process_count": jax.process_count(),
    }
    if data.parts:
        return mixed_iterator(data.parts, data.preprocessor, steps=steps, **shared)
    return training_iterator(data.train, data.preprocessor, families=config.data.families, **shared)


def parameter_table(abstract: TrainState, origins: Mapping[str, str]) -> str:
    """What trains and what is frozen, by part of the model and by where it comes from; one line of sums below.

    Args:
      origins: of every parameter; see `initialisation.Origin`.
    """
    groups: dict[tuple[str, str, str, str], list[jax.ShapeDtypeStruct]] = {}
    for kind, params in (("trains", abstract.params), ("frozen", abstract.frozen)):
        for name, shape in params.items():
            part = "adapters" if is_adapter(name) else name.split("/")[0]
            groups.setdefault((part, kind, origins[name], shape.dtype.name), []).append(shape)

    def row(part: str, kind: str, origin: str, shapes: Collection[jax.ShapeDtypeStruct], last: str) -> str:
        count, size = sum(s.size for s in shapes), sum(s.size * s.dtype.itemsize for s in shapes)
        return f"  {part:8}  {kind:6}  {origin:9}  {count:>14,}  {size / 2**20:>10,.1f}  {last}"

    lines = [f"  {'part':8}  {'kind':6}  {'origin':9}  {'parameters':>14}  {'MiB':>10}  dtype"]
    order = ("img", "llm", "roi", "adapters")
    for key in sorted(groups, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key[1:])):
        lines.append(row(*key[:3], groups[key], key[3]))
    everything = {**abstract.params, **abstract.frozen}.values()
    trained = sum(shape.size for shape in abstract.params.values())
    share = trained / sum(shape.size for shape in everything)
    lines.append(row("total", "", "", everything, f"of which {trained:,} train ({share:.2%})"))
    return "\n".join(lines)
