"""Everything a run needs before its first step, made and checked before anything is written."""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from data_pipelines.loading.loader import TrainingIterator, examples_per_epoch, mixed_iterator, training_iterator
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.checkpoint.opened import OpenedCheckpoint
from rllava_jax.config import Config
from rllava_jax.inference.run_data import RunData
from rllava_jax.model.lora import is_adapter
from rllava_jax.model.params import Params
from rllava_jax.model.sharding import say_what_is_held_whole, to_devices
from rllava_jax.training.initialisation import origins
from rllava_jax.training.log_writers import require_wandb
from rllava_jax.training.loop import Setup
from rllava_jax.training.program import initial_state, make_program, restored_state
from rllava_jax.training.run_length import run_length
from rllava_jax.training.state import TrainState
from rllava_jax.training.step import make_train_step

logger = logging.getLogger(__name__)


def set_up(
    config: Config,
    data: RunData,
    mesh: Mesh,
    pretrained: OpenedCheckpoint | None,
    *,
    assets: Mapping[str, bytes],
    validate: Callable[[Params, int], Mapping[str, float]],
) -> Setup:
    """Shapes, then shardings: no array is made here.

    Args:
      pretrained: the checkpoint whose parameters the run begins with; None is random ones, or a run that is resumed.
      assets, validate: see `Setup`.

    Raises:
      ConfigError: a duration, name pattern or mesh that does not fit the data, the parameters or the devices; or a
        checkpoint of another model.
      DataError: a question family of positive weight without examples.
    """
    if config.train.wandb_project:
        require_wandb(config.train.wandb_project)
    epoch = len(data.train) if data.parts else examples_per_epoch(data.train, config.data.families)
    length, vocab = run_length(config, examples_per_epoch=epoch), data.tokenizer.vocab_size
    program = make_program(config, mesh, vocab=vocab, steps=length.steps, warmup=length.warmup)
    shapes = program.abstract.params | program.abstract.frozen
    origin = origins(config, shapes, pretrained)
    say_what_is_held_whole(mesh, shapes)
    batches = _batches(config, data, steps=length.steps)

    def initialise() -> TrainState:
        logger.info("parameters:\n%s", parameter_table(program.abstract, origin))
        return initial_state(config, program, pretrained=pretrained, vocab=vocab)

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
        validate=validate,
        names=[example.id for example in data.train],
        assets=assets,
    )


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
    groups: dict[tuple[str, ...], list[jax.ShapeDtypeStruct]] = {}
    for kind, params in (("trains", abstract.params), ("frozen", abstract.frozen)):
        for name, shape in params.items():
            part = "adapters" if is_adapter(name) else name.split("/")[0]
            groups.setdefault((part, kind, origins[name], shape.dtype.name), []).append(shape)

    def row(titles: tuple[str, ...], shapes: Iterable[jax.ShapeDtypeStruct], last: str) -> str:
        shapes = list(shapes)
        count, size = sum(s.size for s in shapes), sum(s.size * s.dtype.itemsize for s in shapes)
        part, kind, origin = titles
        return f"  {part:8}  {kind:6}  {origin:9}  {count:>14,}  {size / 2**20:>10,.1f}  {last}"

    lines = [f"  {'part':8}  {'kind':6}  {'origin':9}  {'parameters':>14}  {'MiB':>10}  dtype"]
    order = ("img", "llm", "roi", "adapters")
    for key in sorted(groups, key=lambda key: (order.index(key[0]) if key[0] in order else len(order), key[1:])):
        lines.append(row(key[:3], groups[key], key[3]))
    everything = {**abstract.params, **abstract.frozen}.values()
    trained = sum(shape.size for shape in abstract.params.values())
    share = trained / sum(shape.size for shape in everything)
    lines.append(row(("total", "", ""), everything, f"of which {trained:,} train ({share:.2%})"))
    return "\n".join(lines)
