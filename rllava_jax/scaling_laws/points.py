"""Reads finished runs as points of a scaling law: a model's size, an amount of data, and the losses of the templates.

A template is a kind of question, as a row of metrics.json names it: data set, split, subset, condition and metric. Its
loss is 1 - value for metrics of which more is better, and the value itself for errors.
"""

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

from typing_extensions import TypedDict

from data_pipelines.core.errors import (
    InvalidOption,
    InvalidValue,
    MissingFile,
    OptionConflict,
    UnknownName,
)
from data_pipelines.core.paths import is_remote
from data_pipelines.core.schemas import lines_as
from data_pipelines.settings import Effect
from rllava_jax.checkpoint import provenance
from rllava_jax.config import Config
from rllava_jax.config.durations import amount_and_unit, parse_duration
from rllava_jax.config.stored import changed, from_json, run_facts, to_json
from rllava_jax.evaluation.metrics import METRICS, Row, metrics_of
from rllava_jax.evaluation.results import read_rows
from rllava_jax.model.params import abstract, trainable_names

logger = logging.getLogger(__name__)

Size = Literal["total", "trainable"]
Data = Literal["seen", "distinct"]

_NORMAL_95 = 1.959964


class FitTarget(NamedTuple):
    """One kind of question, and how its answers are scored."""

    dataset: str
    split: str
    subset: str
    condition: str
    metric: str

    def __str__(self) -> str:
        return f"{self.dataset} {self.split}, {self.subset}/{self.condition}/{self.metric}"


@dataclass(frozen=True)
class Point:
    """One run's loss on a template.

    Attributes:
      size: X, parameters.
      data: D, examples.
      error: standard error of the loss over the questions, from its row's 95 % interval or, where that is missing or
        of no width, the binomial one.
      n: questions behind it.
    """

    run: str
    step: int
    size: int
    data: int
    loss: float
    error: float
    n: int


@dataclass(frozen=True)
class FinishedRun:
    """A finished run and one of its evaluations."""

    folder: Path
    step: int
    size: int
    data: int
    config: Config
    rows: Mapping[FitTarget, Row]


def read_runs(folders: Iterable[Path], files: Iterable[Path], *, size: Size, data: Data) -> list[FinishedRun]:
    """Reads runs: of each folder its newest evaluation on the test split; of each metrics.json the run that it is in.

    Raises:
      DataError: a folder without an evaluation.
      ConfigError: a file that is no metrics.json of a run, a run given twice, or one whose config.json or tokenizer is
        missing or damaged.
    """
    chosen = [(folder, newest_evaluation(folder)) for folder in folders]
    chosen += [(_run_of(file), file) for file in files]
    seen: set[Path] = set()
    for folder, _ in chosen:
        place = folder if is_remote(folder) else folder.resolve()
        if place in seen:
            raise OptionConflict(
                f"{folder}: is given twice; its evaluations are not independent, so name the run or one of its files"
            )
        seen.add(place)
    runs = [_read_run(folder, file, size=size, data=data) for folder, file in chosen]
    for name in other_differences(runs):
        logger.warning("the runs also differ in %s: the law takes no account of it", name)
    return runs


def newest_evaluation(folder: Path) -> Path:
    """`eval/STEP/metrics.json` of the greatest STEP.

    Raises:
      DataError: the folder holds none.
    """
    found = [file for file in folder.glob("eval/*/metrics.json") if file.parent.name.isdigit()]
    if not found:
        raise MissingFile(
            f"{folder}: holds no eval/STEP/metrics.json; give a run that was evaluated (--mode evaluate), or --metrics"
        )
    return max(found, key=lambda file: int(file.parent.name))


def other_differences(runs: Sequence[FinishedRun]) -> list[str]:
    """Settings in which the runs differ besides size, amount of data and what has no effect."""
    configs = [to_json(run.config) for run in runs]
    names = (name for other in configs[1:] for name in changed(configs[0], other, besides=tuple(Effect)))
    return list(dict.fromkeys(names))


def templates_of(runs: Sequence[FinishedRun], metrics: Sequence[str]) -> list[FitTarget]:
    """The templates to fit.

    Args:
      metrics: as "subset/condition/metric"; empty for every question family's main metric with the right region.

    Raises:
      DataError: a metric that no run has.
      ConfigError: one that is malformed, or is no loss.
    """
    known = dict.fromkeys(template for run in runs for template in run.rows)
    if not metrics:
        families = [t for t in known if t.subset.startswith("family=") and t.condition == "right"]
        found = [template for template in families if template.metric == metrics_of(template.subset)[0]]
        if not found:
            raise UnknownName("the runs have no row family=…/right/…; name what to fit with --metric")
        return found
    found = []
    for text in metrics:
        named = tuple(text.rsplit("/", 2))
        if len(named) != 3:
            raise InvalidOption(f"--metric {text}: is not SUBSET/REGION/METRIC, e.g. family=identify/right/accuracy")
        loss_of(named[2], 0.5)
        hits = [template for template in known if template[2:] == named]
        if not hits:
            near = ", ".join(sorted({"/".join(t[2:]) for t in known if t.subset == named[0]})[:8])
            subsets = ", ".join(dict.fromkeys(t.subset for t in known))
            raise UnknownName(f"--metric {text}: no run has it; there are {near or 'the subsets ' + subsets}")
        found += hits
    return list(dict.fromkeys(found))


def points_of(runs: Sequence[FinishedRun], template: FitTarget) -> list[Point]:
    """The template's loss in every run that has it; the others are named in a warning."""
    without = [run.folder.name for run in runs if template not in run.rows]
    if without:
        logger.warning("%s: left out %d runs that do not have it: %s", template, len(without), ", ".join(without))
    points = []
    for run in runs:
        if template in run.rows:
            row = run.rows[template]
            loss = loss_of(template.metric, row["value"])
            points.append(Point(str(run.folder), run.step, run.size, run.data, loss, _standard_error(row), row["n"]))
    return points


def loss_of(metric: str, value: float) -> float:
    """1 - value where more is better, the value where less is.

    Raises:
      ConfigError: the metric is neither.
    """
    better = METRICS[metric].better if metric in METRICS else ""
    if better:
        return 1 - value if better == "higher" else value
    known = ", ".join(name for name, known in METRICS.items() if known.better)
    raise InvalidOption(f"--metric …/{metric}: is neither a score nor an error; use one of {known}")


def _standard_error(row: Row) -> float:
    # An interval of no width comes from "yes" to every pair of questions, one of which it answers: no lack of chance.
    if row["ci_low"] is not None and row["ci_high"] is not None and row["ci_high"] > row["ci_low"]:
        return (row["ci_high"] - row["ci_low"]) / (2 * _NORMAL_95)
    return math.sqrt(max(row["value"] * (1 - row["value"]), 0.0) / row["n"])


def _run_of(file: Path) -> Path:
    if re.fullmatch(r"eval/\d+(-.+)?/metrics\.json", "/".join(file.parts[-3:])) is None:
        raise InvalidOption(f"--metrics {file}: is not RUN/eval/STEP/metrics.json; the run's configuration is read too")
    return file.parent.parent.parent


def _read_run(folder: Path, file: Path, *, size: Size, data: Data) -> FinishedRun:
    values = run_facts(folder, remedy="give a run's workdir")["config"]
    config = from_json(values, where=str(folder / "config.json"))
    step, duration = int(file.parent.name.partition("-")[0]), config.train.duration
    if amount_and_unit(duration)[1] in ("steps", "examples") and config.optimizer.schedule != "constant":
        whole = parse_duration(duration, batch_size=config.train.batch_size) or 0
        if step < whole:
            logger.warning(
                "%s: evaluated at step %d of %d, before its learning rate had come down; a run of %d steps would do "
                "better", folder, step, whole, step,
            )  # fmt: skip
    amount = step * config.train.batch_size if data == "seen" else _distinct_examples(folder, step)
    if not amount:
        raise InvalidValue(f"{file}: is of step 0, which has seen no data")
    named = itemgetter(*FitTarget._fields)
    rows = {FitTarget(*named(row)): row for row in read_rows(file)}
    return FinishedRun(folder, step, _parameters(folder, config, size), amount, config, rows)


def _parameters(folder: Path, config: Config, size: Size) -> int:
    """Parameters of the model as it is built, token table included; shapes alone, no memory."""
    shapes = abstract(config, vocab=config.model.vocab or provenance.read_tokenizer(folder).vocab_size)[1]
    counted = trainable_names(config, shapes) if size == "trainable" else set(shapes)
    return sum(math.prod(shapes[name].shape) for name in counted)


class _Step(TypedDict):
    """A line of examples.jsonl."""

    step: int
    examples: list[str]


def _distinct_examples(folder: Path, step: int) -> int:
    path = folder / "examples.jsonl"
    rows = lines_as(_Step, path, remedy="train with train.log_examples, or use --data seen")
    return len({name for row in rows if row["step"] <= step for name in row["examples"]})
