"""The training step of a configuration, compiled for hardware that is not here, and what can be known from it."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.core.errors import DataError, MissingPackage
from data_pipelines.core.paths import path_of
from data_pipelines.regions.encoders.protocol import region_encoders
from rllava_jax.checkpoint.errors import MissingCheckpoint
from rllava_jax.config import Config
from rllava_jax.config.curriculum import stage_configs
from rllava_jax.config.durations import amount_and_unit, parse_duration
from rllava_jax.config.loading import load
from rllava_jax.config.validation import validate_patches
from rllava_jax.inference.run_data import training_examples
from rllava_jax.model.attention.attend import check_attention
from rllava_jax.model.sharding import batch_sharding, batch_shards, check_batches, make_mesh, placed
from rllava_jax.model.sizes import PaliGemmaConfig, model_size
from rllava_jax.planning.chips import Roofline, roofline
from rllava_jax.planning.flops import Flops, training_flops
from rllava_jax.planning.hlo import parse_program
from rllava_jax.planning.memory import (
    Buffer,
    Memory,
    device_bytes,
    kept_activations,
    largest_buffers,
    out_of_memory,
    state_memory,
    step_memory,
)
from rllava_jax.planning.topology import Topology, topology_devices
from rllava_jax.planning.traffic import Collective, collectives, hbm_bytes
from rllava_jax.training.initialisation import resolve
from rllava_jax.training.program import Program, make_program
from rllava_jax.training.step import make_train_step

NOT_AT_HAND = "(not at hand)"


@dataclass(frozen=True)
class Compiled:
    """What XLA says of a compiled step.

    Attributes:
      hbm: bytes of a device's HBM traffic in a step.
    """

    collectives: list[Collective]
    hbm: float
    buffers: list[Buffer]
    estimate: Roofline


@dataclass(frozen=True)
class StepPlan:
    """What can be known before renting.

    Attributes:
      limit: GiB that a device must do with.
      compiled: None where the step does not fit the chip and XLA made no program.
      refusal: XLA's own words for that, or why it was not asked.
      flops: of one example.
      steps: of the configured run; None where its length is not known, and `unknown` says why.
      seconds: spent tracing and lowering, and compiling.
      quick: compiled with the least effort, so that memory is an upper bound.
    """

    topology: Topology
    mesh: dict[str, int]
    config: Config
    memory: Memory
    limit: float
    flops: list[Flops]
    steps: int | None
    unknown: str
    quick: bool
    compiled: Compiled | None = None
    refusal: str = ""
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def batch(self) -> int:
        """Examples of a step."""
        return self.config.train.batch_size

    @property
    def fits(self) -> bool:
        """Whether the step runs within the limit."""
        return self.compiled is not None and self.memory.fits(self.limit)

    @property
    def examples_per_second(self) -> float | None:
        """By the roofline estimate, no communication hidden."""
        return self.batch / self.compiled.estimate.exposed if self.compiled else None

    @property
    def hours(self) -> float | None:
        """Of the configured run, by the same estimate."""
        if self.compiled is None or self.steps is None:
            return None
        return self.steps * self.compiled.estimate.exposed / 3600


def load_config_for_planning(
    path: str | Path, overrides: Sequence[str], workdir: Path, *, stage: str = ""
) -> tuple[Config, int]:
    """The configuration, whose data and starting point need not be at hand, and the rows of its token embedding.

    Args:
      workdir: of the run, that of the stage where the file defines several. stage: its name.

    Raises:
      ConfigError: as `loading.load`; or the size is the checkpoint's, and that is not here.
    """
    loaded = load(path, overrides, placeholders={"data.root": NOT_AT_HAND, "init.checkpoint": NOT_AT_HAND})
    config = loaded if isinstance(loaded, Config) else stage_configs(loaded, workdir.parent)[stage]
    checkpoint = config.init.checkpoint
    vocab = 0
    if checkpoint and checkpoint != NOT_AT_HAND and path_of(checkpoint).exists():
        config, start = resolve(config, workdir)
        vocab = start.tokenizer.vocab_size if start else 0
    if config.model.size == "checkpoint":
        where = "no init.checkpoint is given" if checkpoint == NOT_AT_HAND else f"{checkpoint} is not here"
        raise MissingCheckpoint(
            f'model.size: is "checkpoint", and {where}; name the size, e.g. --config.model.size=paligemma-3b-224'
        )
    # "auto" looks at this process's backend, which is a CPU; the run's will be the accelerator.
    chosen: dict[str, Any] = {"compute_dtype": "bfloat16", "layers": "scanned"}
    chosen = {name: value for name, value in chosen.items() if getattr(config.model, name) == "auto"}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **chosen))
    size = model_size(config.model, vocab=vocab)
    validate_patches(config, patch=size.vision.patch)
    return config, size.decoder.vocab


def make_plan(
    config: Config,
    topology: Topology,
    *,
    vocab: int = 0,
    memory: float | None = None,
    examples: int | None = None,
    quick: bool = False,
) -> StepPlan:
    """Compiles the configured training step for a topology and reads off what it needs.

    Args:
      vocab: rows of the token embedding; 0 takes the size's own.
      memory: GiB to fit in; None takes what the chip's runtime leaves.
      examples: per epoch; None takes the data's, where it is at hand.
      quick: compile for a TPU with XLA's least effort, in a fifth of the time. Memory is then an upper bound.

    Raises:
      ConfigError: a topology, mesh or batch that do not go together, or a compiler that is not installed.
    """
    size = model_size(config.model, vocab=vocab)
    mesh = make_mesh(config.mesh, topology_devices(topology))
    check_batches(config, mesh)
    check_attention(config.model, size, topology.chip.platform)
    steps, unknown = run_length(config, examples)
    program = make_program(config, mesh, vocab=size.decoder.vocab, steps=steps or 1000, warmup=0)
    flops = training_flops(config, size, program.abstract.params)
    state, limit = state_memory(program.abstract, program.shardings), memory or topology.chip.usable
    plan = StepPlan(topology, dict(mesh.shape), config, state, limit, flops, steps, unknown, quick)
    if not state.fits(topology.chip.usable):
        return dataclasses.replace(plan, refusal="not compiled: parameters and optimiser alone need more")
    times = [time.perf_counter()]
    traced, lowered = _lowered(config, size, program, mesh)
    times.append(time.perf_counter())
    compiled, refusal = None, ""
    try:
        compiled = _compiled(lowered, topology.chip.platform, quick=quick)
    except jax.errors.JaxRuntimeError as error:
        missing, refusal = out_of_memory(str(error)), f"XLA: {str(error).splitlines()[0]}"
        if missing is None:
            raise
        needed = dataclasses.replace(state, temporaries=missing)
    times.append(time.perf_counter())
    if compiled is not None:
        micro_batch = config.train.batch_size // config.train.accumulate
        activations = kept_activations(traced.jaxpr, batch=micro_batch, shards=batch_shards(mesh))
        gradients = device_bytes(program.abstract.params, program.shardings.params)
        analysis = compiled.memory_analysis()
        needed = step_memory(analysis, state, gradients=gradients, activations=activations, chip=topology.chip)
    read = None if compiled is None else _read(compiled, topology, config, flops)
    seconds = (times[1] - times[0], times[2] - times[1])
    return dataclasses.replace(plan, memory=needed, compiled=read, refusal=refusal, seconds=seconds)


def abstract_batch(config: Config, size: PaliGemmaConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """The global batch that the training step is given: names, shapes and types as the loader's, without data."""
    batch, length, regions = config.train.batch_size, config.data.text_length, config.regions
    slots, side = regions.max_regions, size.vision.image_size

    def array(dtype: type, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch, *shape), np.dtype(dtype))

    arrays = {"image": array(np.uint8, side, side, 3)}
    arrays |= {name: array(np.int32, length) for name in ("text", "mask_ar", "mask_loss", "mask_input")}
    arrays |= {"regions": array(np.float32, slots, 4), "region_valid": array(np.bool_, slots)}
    for encoder in region_encoders(regions):
        specs = encoder.specs(regions, size.vision.patch)
        arrays |= {name: array(spec.dtype, slots, *spec.shape) for name, spec in specs.items()}
    arrays["index"] = array(np.int32)  # int64 in the loader; JAX takes 32 bits of it
    return arrays


def _lowered(
    config: Config, size: PaliGemmaConfig, program: Program, mesh: Mesh
) -> tuple[jax.stages.Traced, jax.stages.Lowered]:
    """The training step, traced with shapes alone, and lowered for the mesh's devices.

    Raises:
      ConfigError: cuDNN's attention, where the library is missing.
    """
    batch = abstract_batch(config, size)
    batch = placed(batch, dict.fromkeys(batch, batch_sharding(mesh)))
    state = placed(program.abstract, program.shardings)
    step = make_train_step(program, config, mesh)
    try:
        with jax.set_mesh(mesh):  # a Pallas kernel asks it for what chip it is to be made
            traced = step.trace(state, batch)
            return traced, traced.lower()
    except RuntimeError as error:
        if config.model.attention != "cudnn" or "cuDNN" not in str(error):
            raise
        # JAX asks the library for its version while it traces.
        raise MissingPackage(
            "model.attention: 'cudnn' is compiled ahead of time only where NVIDIA's library is; "
            "pip install nvidia-cudnn-cu12, or plan with xla"
        ) from None


def _compiled(lowered: jax.stages.Lowered, platform: str, *, quick: bool) -> jax.stages.Compiled:
    # XLA chooses tiles for its Triton matrix products by timing them, and gives up on some where there is no GPU;
    # without them it calls cuBLAS, whose results lie in memory as theirs do.
    options: dict[str, bool | str] | None = {"xla_gpu_enable_triton_gemm": False} if platform != "tpu" else None
    # How hard XLA for TPU looks for a faster program, -1 to 1.
    name = "jax_exec_time_optimization_effort"
    before = getattr(jax.config, name)
    jax.config.update(name, -1.0 if quick else before)
    try:
        return lowered.compile(compiler_options=options)
    finally:
        jax.config.update(name, before)


def run_length(config: Config, examples: int | None) -> tuple[int | None, str]:
    """The steps of `train.duration`, or why they are not known.

    An epoch is `examples`, or the data's own number where the data is at hand.
    """
    train = config.train
    if amount_and_unit(train.duration)[1] == "epochs" and examples is None:
        try:
            examples = len(training_examples(config))
        except (DataError, OSError):
            return None, f"{train.duration!r} of data that is not at hand; give --examples N, an epoch's number"
    steps = parse_duration(
        train.duration, batch_size=train.batch_size, examples_per_epoch=examples, field="train.duration"
    )
    return (steps, "") if steps else (None, f"train.duration is {train.duration!r}")


def _read(compiled: Any, topology: Topology, config: Config, flops: Sequence[Flops]) -> Compiled:
    # The one loop whose end the program computes is the loss's over chunks of answer positions: one chunk is assumed.
    program = parse_program(compiled.as_text(), unbounded=1)
    on_chip = topology.chip.platform == "tpu"
    moved = collectives(program, devices=topology.devices, island=topology.island)
    traffic = hbm_bytes(program, on_chip_spaces=on_chip)
    arithmetic = sum(part.hardware for part in flops) * config.train.batch_size / topology.devices
    estimate = roofline(topology.chip, flops=arithmetic, hbm=traffic, collectives=moved)
    return Compiled(moved, traffic, largest_buffers(program, on_chip_spaces=on_chip), estimate)
