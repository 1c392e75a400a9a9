"""The main job: train on a data set, or evaluate what was trained.

    python -m rllava_jax.main --config configs/slake_tiny.py --workdir runs/slake_tiny --config.data.root=DIR

Run the same command again after an interruption to resume from the last checkpoint. Any setting of
`rllava_jax/config/schema.py` can be given as `--config.SECTION.FIELD=VALUE`.

A configuration with stages is trained stage by stage, each in DIR/STAGE; the same command resumes the stage that was
interrupted. There `--config.SECTION.FIELD=VALUE` holds for all, `--config.stages.NAME.SECTION.FIELD=VALUE` for one.

Exit codes: 0 done; 2 an error that you can fix; 3 stopped by a bad step; 74 the disk is full, read-only or failing; 75
interrupted, and saved; 76 lost another host. After 75 and 76, and after making room, run the same command again.
SIGTERM or Ctrl-C once stops at the next step; twice, at once.
"""

import argparse
import contextlib
import functools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rllava_jax.runtime import process_memory

if __name__ == "__main__":
    process_memory.start("rllava_jax.main")

from data_pipelines.core.command_line import Parser, above_zero, file_or_folder, run_command, whole
from data_pipelines.core.errors import InvalidOption
from data_pipelines.core.paths import path_of
from rllava_jax.checkpoint.manager import Checkpoints
from rllava_jax.checkpoint.provenance import owned
from rllava_jax.config import Config, Curriculum
from rllava_jax.config.loading import OVERRIDE_PREFIX, load, stage_names
from rllava_jax.evaluation.run import check_best_metric, evaluate_run
from rllava_jax.report.run_report import write_report
from rllava_jax.runtime import hosts
from rllava_jax.runtime.compilation_cache import keep_compiled
from rllava_jax.runtime.interruption import Interruption
from rllava_jax.training.job import open_job
from rllava_jax.training.loop import train
from rllava_jax.training.losses.registry import check_losses
from rllava_jax.training.stages import run_stages, stage_to_evaluate

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    return run_command(_parser(), _work, argv, level=logging.INFO)


def _work(options: argparse.Namespace) -> None:
    with hosts.shared_failures(), Interruption() as interruption:
        workdir = path_of(options.workdir)
        if options.mode == "compile":
            return _plan(options, workdir)
        loaded = load(options.config, options.overrides)
        stages = {} if isinstance(loaded, Config) else loaded.stages
        _chosen(options, list(stages))
        for config in [loaded] if isinstance(loaded, Config) else [stage.config for stage in stages.values()]:
            check_best_metric(config)
            if options.mode == "train":
                check_losses(config.train)
        with interruption.nothing_to_save():
            hosts.join()
        work = functools.partial(run, interruption=interruption, command=options.command)
        # An evaluation may take place beside a run: its files appear whole.
        with owned(workdir) if options.mode == "train" else contextlib.nullcontext():
            if isinstance(loaded, Curriculum):
                if options.mode == "train":
                    return run_stages(loaded, workdir, work)
                loaded, workdir = stage_to_evaluate(loaded, workdir, options.stage)
            keep_compiled(loaded, workdir)
            work(loaded, workdir, training=options.mode == "train", which=options.step)


def run(
    config: Config,
    workdir: Path,
    *,
    interruption: Interruption,
    command: str,
    training: bool,
    which: str | None = None,
    evaluates: bool = True,
    later: Sequence[Config] = (),
) -> int:
    """Trains and then evaluates, or evaluates alone.

    Args:
      command: what the user wrote, for the report.
      which: the checkpoint that is evaluated alone: last, best or a step; None is the last.
      evaluates: whether the test split is evaluated after training.
      later: the stages to come, see `run_data.load_run_data`.

    Returns:
      The step of the parameters at the end.
    """
    job = open_job(config, workdir, training=training, later=later)
    config = job.config
    setup = job.set_up() if training else None
    job.record()
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
            step, params = job.restored(checkpoints, which or "last")
    if evaluates:
        folder = evaluate_run(
            job.generator, params, config, job.data, workdir, step=step, command=command, write_report=write_report
        )
        logger.info("report: %s", folder / "report.html")
    return step


def _chosen(options: argparse.Namespace, names: list[str]) -> list[str]:
    """The stages that are meant, of those that the configuration has."""
    if options.stage and options.stage not in names:
        raise InvalidOption(f"--stage {options.stage}: {options.config} has {', '.join(names) or 'no stages'}")
    return [options.stage] if options.stage else names


def _plan(options: argparse.Namespace, workdir: Path) -> None:
    from rllava_jax.planning.command import compile_for  # of this mode alone

    wanted = {name: getattr(options, name) for name in ("topology", "memory", "examples", "quick")}
    for stage in _chosen(options, stage_names(options.config)) or [""]:
        compile_for(options.config, options.overrides, workdir, stage=stage, **wanted)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m rllava_jax.main",
        description=__doc__,
        overrides=OVERRIDE_PREFIX,
        epilog="override a setting with --config.SECTION.FIELD=VALUE, e.g. --config.train.batch_size=64 "
        "--config.regions.encoders=crop,loc",
    )
    add = parser.add_argument
    add("--config", required=True, type=file_or_folder, metavar="FILE", help="a Python file that defines `config`")
    add(
        "--workdir", required=True, type=file_or_folder, metavar="DIR",
        help="where the run lives, or gs://BUCKET/FOLDER; resumed if it holds one",
    )  # fmt: skip
    add(
        "--mode", choices=("train", "evaluate", "compile"), default="train",
        help="train (and evaluate at the end), evaluate, or compile the step for hardware that is not here",
    )  # fmt: skip
    add("--step", help="with --mode evaluate: last, best, or a checkpoint's step (default: last)")
    add(
        "--stage", metavar="NAME",
        help="of a configuration with stages: evaluate this one (default: the last), or compile it (default: each)",
    )  # fmt: skip
    add("--topology", help="with --mode compile: e.g. v5e:4x4, v5p:2x2x2, v5e:16x16*2 (slices), h100:8")
    add("--memory", type=above_zero, metavar="GIB", help="with --mode compile: would it fit in so much?")
    add("--examples", type=whole(1), metavar="N", help="with --mode compile: examples of an epoch")
    add(
        "--quick", action="store_true",
        help="with --mode compile: for a TPU in a fifth of the time, with memory as an upper bound",
    )  # fmt: skip
    parser.goes_with("--mode evaluate", "--step")
    parser.goes_with(("--mode evaluate", "--mode compile"), "--stage")
    parser.goes_with("--mode compile", "--topology", "--memory", "--examples", "--quick")
    return parser


if __name__ == "__main__":
    sys.exit(main())
