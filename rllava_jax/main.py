"""The main job: train on a data set, or evaluate what was trained.

    python -m rllava_jax.main --config configs/slake_tiny.py --workdir runs/slake_tiny --config.data.root=DIR

Run the same line again after an interruption and it goes on from the last checkpoint. Any setting of
`rllava_jax/config/schema.py` can be given as `--config.SECTION.FIELD=VALUE`.

A configuration with stages is trained stage by stage, each in DIR/STAGE; the same line goes on in the stage that was
interrupted. There `--config.SECTION.FIELD=VALUE` holds for all, `--config.stages.NAME.SECTION.FIELD=VALUE` for one.

Exit codes: 0 done; 2 an error that you can mend; 3 stopped by a bad step; 75 interrupted, and saved; 76 lost another
host. After 75 and 76 the same line goes on. SIGTERM or Ctrl-C once stops at the next step; twice, at once.
"""

from __future__ import annotations

import argparse
import functools
import logging
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
from jax.sharding import Mesh

from data_pipelines.core import exit_codes
from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.core.paths import path_of
from rllava_jax.checkpoint import provenance
from rllava_jax.checkpoint.errors import CheckpointError
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.config import Config, Curriculum
from rllava_jax.config.curriculum import (
    check_starts,
    check_workdir_of_stages,
    finished_stages,
    follow_move,
    record_finished,
    stage_configs,
)
from rllava_jax.config.loading import OVERRIDE_PREFIX, load, stage_names
from rllava_jax.config.validation import validate_patches
from rllava_jax.evaluation.run import check_best_metric, evaluate_run, validation_figures
from rllava_jax.inference.generator import Generator
from rllava_jax.inference.run_data import check_examples, load_run_data, same_examples
from rllava_jax.model.attention.fused import check_attention
from rllava_jax.model.params import abstract, compute_dtype
from rllava_jax.model.sharding import check_batches, make_mesh, sharded_shapes
from rllava_jax.model.sizes import model_size
from rllava_jax.planning.command import compile_for
from rllava_jax.runtime import hosts
from rllava_jax.runtime.compilation_cache import keep_compiled
from rllava_jax.runtime.interruption import Interrupted, Interruption
from rllava_jax.training.bad_steps import BadStep
from rllava_jax.training.initialisation import resolve
from rllava_jax.training.loop import train
from rllava_jax.training.setup import set_up

logger = logging.getLogger(__name__)

_PLANNING = ("topology", "memory", "examples", "quick")  # options of --mode compile alone


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    overrides = [argument for argument in arguments if argument.startswith(OVERRIDE_PREFIX)]
    options = _parser().parse_args([argument for argument in arguments if argument not in overrides])
    logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)  # libraries may have set a handler
    for noisy in ("jax", "orbax", "matplotlib", "grain"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Orbax warns at each save without validation figures, which is how most checkpoints are meant to be.
    logging.getLogger("absl").setLevel(logging.ERROR)
    # What a failed read or log-in leaves behind; our own line says it once.
    for echo in ("asyncio", "google", "gcsfs"):
        logging.getLogger(echo).setLevel(logging.CRITICAL)

    def job(interruption: Interruption) -> None:
        if options.step and options.mode != "evaluate":
            raise ConfigError(
                f"--step {options.step}: is for --mode evaluate; training goes on from the last checkpoint"
            )
        _check_planning_options(options)
        _check_stage(options)
        workdir = path_of(options.workdir)
        if options.mode == "compile":
            planning = {name: getattr(options, name) for name in _PLANNING}
            for stage in [options.stage] if options.stage else stage_names(options.config) or [""]:
                compile_for(options.config, overrides, workdir, stage=stage, **planning)
            return
        loaded = load(options.config, overrides)
        for config in [loaded] if isinstance(loaded, Config) else [stage.config for stage in loaded.stages.values()]:
            check_best_metric(config)
        with interruption.nothing_to_save():
            hosts.join()
        command = shlex.join(["python", "-m", "rllava_jax.main", *arguments])
        if isinstance(loaded, Config):
            keep_compiled(loaded, workdir)
            run(loaded, workdir, interruption, mode=options.mode, which=options.step, command=command)
        elif options.mode == "train":
            run_stages(loaded, workdir, interruption, command=command)
        else:
            config, folder = _stage_to_evaluate(loaded, workdir, options.stage)
            keep_compiled(config, workdir)
            run(config, folder, interruption, mode=options.mode, which=options.step, command=command)

    return _exit_code(job)


def _exit_code(job: Callable[[Interruption], None]) -> int:
    """Does the job, and says in one line what ended it early. Other hosts are told what they cannot know."""
    alike = False  # whether all hosts end so, by agreement
    try:
        with Interruption() as interruption:
            job(interruption)
        return exit_codes.DONE
    except (ConfigError, DataError, CheckpointError) as error:
        code, message = exit_codes.USER_ERROR, str(error)
    except BadStep as error:
        code, message, alike = exit_codes.BAD_STEP, str(error), True
    except Interrupted as error:
        code, message, alike = exit_codes.INTERRUPTED, "interrupted; the same line goes on", bool(error.args)
    except hosts.HostLost as error:
        code, message = exit_codes.LOST_HOST, str(error)
    except Exception as error:
        if not hosts.several():
            raise
        if hosts.is_lost_host(error):
            code, message = exit_codes.LOST_HOST, str(hosts.lost(error))
        else:
            traceback.print_exc()
            code, message = 1, f"{type(error).__name__}: {error}"
    last = message if code == exit_codes.INTERRUPTED else f"error: {message}"
    if hosts.several() and not alike:
        # Said when the others know: JAX may end this process meanwhile, with a stack that would stand below the line.
        hosts.fail(code, message, last)
        print(last, file=sys.stderr, flush=True)
        hosts.leave(code)
    print(last, file=sys.stderr, flush=True)
    return code


def run_stages(curriculum: Curriculum, workdir: Path, interruption: Interruption, *, command: str) -> None:
    """Trains the stages that are not done yet, in order, and evaluates the last and those that say so."""
    check_workdir_of_stages(workdir)
    check_starts(curriculum, workdir)
    _follow_move(curriculum, workdir)
    configs = stage_configs(curriculum, workdir)
    names, done = list(configs), finished_stages(workdir)
    keep_compiled(configs[names[0]], workdir)  # JAX has one folder for it in a process
    # Whatever is wrong with a later stage is said before the first one trains.
    for name in names:
        if name in done:
            _check_finished(configs[name], workdir / name)
    _check_later_data({name: config for name, config in configs.items() if name not in done})
    for number, (name, config) in enumerate(configs.items()):
        said = f"stage {number + 1} of {len(names)}, {name}"
        evaluates = curriculum.stages[name].evaluate or name == names[-1]
        if name in done:
            logger.info("%s: done, step %d", said, done[name])
            if evaluates and not (workdir / name / "eval" / str(done[name]) / "metrics.json").exists():
                last = str(done[name])
                run(config, workdir / name, interruption, mode="evaluate", which=last, command=command)
            continue
        logger.info("%s", said)
        step = run(
            config,
            workdir / name,
            interruption,
            mode="train",
            which=None,
            command=command,
            evaluates=evaluates,
            later=[configs[after] for after in names[number + 1 :] if curriculum.stages[after].starts_from != "init"],
        )
        if jax.process_index() == 0:
            record_finished(workdir, name, step)
        hosts.barrier("stage finished")


def _follow_move(curriculum: Curriculum, workdir: Path) -> None:
    if jax.process_index() == 0:
        for name in follow_move(curriculum, workdir):
            logger.info("%s: had not got to a checkpoint; begins anew where the stages are now", workdir / name)
    hosts.barrier("stages found")


def _check_later_data(pending: Mapping[str, Config]) -> None:
    """Loads the examples of the stages that come after the next one, where they are others than a stage's before."""
    known: list[Config] = []
    for name, config in pending.items():
        if known and not any(same_examples(config, other) for other in known):
            try:
                check_examples(config)
            except (ConfigError, DataError) as error:
                raise type(error)(f"stages.{name}: {error}") from None
        known.append(config)


def _check_finished(config: Config, folder: Path) -> None:
    """Checks that a stage which is done was trained with these settings."""
    config, _ = resolve(config, folder)
    if not provenance.check_workdir(folder, config):
        raise ConfigError(
            f"{folder}: holds no run, but curriculum.json beside it says that this stage is done; "
            "put it back, or choose another --workdir"
        )


def _stage_to_evaluate(curriculum: Curriculum, workdir: Path, name: str | None) -> tuple[Config, Path]:
    configs = stage_configs(curriculum, workdir)
    name = name or list(configs)[-1]
    if not (workdir / name / "config.json").exists():
        begun = ", ".join(other for other in configs if (workdir / other / "config.json").exists()) or "none yet"
        raise ConfigError(f"{workdir / name}: stage {name} is not trained; train it first (trained here: {begun})")
    return configs[name], workdir / name


def run(
    config: Config,
    workdir: Path,
    interruption: Interruption,
    *,
    mode: str,
    which: str | None,
    command: str,
    evaluates: bool = True,
    later: Sequence[Config] = (),
) -> int:
    """Trains and then evaluates, or evaluates alone.

    Args:
      evaluates: whether the test split is asked after training.
      later: the stages to come, see `run_data.load_run_data`.

    Returns:
      The step of the parameters at the end.
    """
    config, start = resolve(config, workdir)
    mesh = _mesh_of(config)
    training = mode == "train"
    known = provenance.check_workdir(workdir, config, evaluating=not training)
    hosts.barrier("workdir checked")  # before the first host writes it
    if not training and not known:
        raise ConfigError(f"{workdir}: holds no run to evaluate; train first, or give its --workdir")
    tokenizer = provenance.read_tokenizer(workdir) if known else start.tokenizer if start else None
    task = load_run_data(config, tokenizer=tokenizer, training=training, later=later)
    graphdef, shapes = abstract(config, vocab=task.tokenizer.vocab_size)
    generator = Generator(graphdef, task.tokenizer, mesh, new_tokens=config.evaluation.max_new_tokens)
    started_from = provenance.started_from(workdir) if known else start.record if start else None
    setup = None
    if training:
        assets = provenance.assets(config, task.preprocessor, started_from)
        validate = functools.partial(validation_figures, generator, config, task, workdir)
        setup = set_up(config, task, mesh, start, assets=assets, validate=validate)
    if not known:
        provenance.write_workdir(workdir, config, task.tokenizer, started_from)
    with Checkpoints(
        workdir / "checkpoints",
        keep_last=config.train.keep_last,
        best_metric=config.train.best_metric,
        read_only=not training,
    ) as checkpoints:
        if setup is not None:
            state = train(config.train, setup, workdir, checkpoints, interruption)
            step, params = int(state.step), state.inference_params
        else:
            step = checkpoints.resolve(which or "last")
            params = checkpoints.restore_params(step, sharded_shapes(mesh, shapes))
    if not evaluates:
        return step
    stored = provenance.stored_config(workdir)
    folder = evaluate_run(generator, params, config, task, workdir, step=step, command=command, config_of_run=stored)
    logger.info("report: %s", folder / "report.html")
    return step


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


def _check_planning_options(options: argparse.Namespace) -> None:
    for name in _PLANNING:
        value = getattr(options, name)
        if value is not None and options.mode != "compile":
            raise ConfigError(f"--{name}{'' if value is True else f' {value}'}: is for --mode compile")


def _check_stage(options: argparse.Namespace) -> None:
    if options.stage is None:
        return
    if options.mode == "train":
        raise ConfigError(
            f"--stage {options.stage}: is for --mode evaluate and compile; training does what is not done"
        )
    names = stage_names(options.config)
    if options.stage not in names:
        raise ConfigError(f"--stage {options.stage}: {options.config} has {', '.join(names) or 'no stages'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rllava_jax.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="override a setting with --config.SECTION.FIELD=VALUE, e.g. --config.train.batch_size=64 "
        "--config.regions.encoders=crop,loc",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a Python file that defines `config`")
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="where the run lives, or gs://BUCKET/FOLDER; resumed if it holds one",
    )
    parser.add_argument(
        "--mode",
        choices=("train", "evaluate", "compile"),
        default="train",
        help="train (and evaluate at the end), evaluate, or compile the step for hardware that is not here",
    )
    parser.add_argument("--step", help="with --mode evaluate: last, best, or a checkpoint's step (default: last)")
    parser.add_argument(
        "--stage",
        metavar="NAME",
        help="of a configuration with stages: evaluate this one (default: the last), or compile it (default: each)",
    )
    parser.add_argument("--topology", help="with --mode compile: e.g. v5e:4x4, v5p:2x2x2, v5e:16x16*2 (slices), h100:8")
    parser.add_argument("--memory", type=float, metavar="GIB", help="with --mode compile: would it fit in so much?")
    parser.add_argument("--examples", type=int, metavar="N", help="with --mode compile: examples of an epoch")
    parser.add_argument(
        "--quick",
        action="store_true",
        default=None,
        help="with --mode compile: for a TPU in a fifth of the time, with memory as an upper bound",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
