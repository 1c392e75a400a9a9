"""`--mode compile`: what a configuration needs of hardware that is not here, printed and written as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import made_folder
from data_pipelines.core.errors import InvalidOption, MissingOption, OptionConflict
from rllava_jax.planning.plan import StepPlan, load_config_for_planning, make_plan
from rllava_jax.planning.report import as_json, as_text
from rllava_jax.planning.topology import parse_topology


def compile_for(
    path: str,
    overrides: Sequence[str],
    workdir: Path,
    *,
    topology: str | None,
    stage: str = "",
    memory: float | None = None,
    examples: int | None = None,
    quick: bool = False,
) -> StepPlan:
    """Plans the run and writes `WORKDIR/compile/TOPOLOGY.json` (with _quick, _24GiB where these were asked).

    That the step does not fit is a result, not an error.

    Args:
      path, overrides: of the configuration. topology: as `topology.parse_topology` reads it.
      stage: of those that the configuration defines; its plan is written below `WORKDIR/STAGE`.
      memory: GiB to fit in, in place of the chip's own. examples: per epoch, where the data is not at hand.
      quick: as `make_plan`.

    Raises:
      ConfigError: a configuration that is wrong, does not go with the topology, or a compiler that is not installed.
    """
    if not topology:
        raise MissingOption("--mode compile: for which hardware? add --topology, e.g. v5e:4x4, v5e:16x16*2 or h100:8")
    wanted = parse_topology(topology)
    if memory is not None and memory > wanted.chip.usable:
        raise InvalidOption(
            f"--memory {memory:g}: is more than what a {wanted.chip.name} has to use, {wanted.chip.usable:.1f} GiB"
        )
    if quick and wanted.chip.platform != "tpu":
        raise OptionConflict(f"--quick: is for TPUs, which {topology} is not; leave it out")
    workdir = workdir / stage if stage else workdir
    config, vocab = load_config_for_planning(path, overrides, workdir, stage=stage)
    # Another question of the same topology has a file of its own.
    name = wanted.file_name + (f"_{memory:g}GiB" if memory else "") + ("_quick" if quick else "")
    file = workdir / "compile" / f"{name}.json"
    made_folder(file.parent, option="--workdir")
    plan = make_plan(config, wanted, vocab=vocab, memory=memory, examples=examples, quick=quick)
    write_atomically(file, json.dumps(as_json(plan), indent=2) + "\n")
    if stage:
        print(f"stage {stage}\n")
    print(as_text(plan))
    print(f"\n{file}")
    return plan
