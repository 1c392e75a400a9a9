"""Fits a scaling law to finished runs, template by template, or says why they cannot carry one.

    python -m rllava_jax.scaling runs/w* --out runs/scaling --metric family=identify/right/accuracy

The law is L(X, D) = A · X^-alpha · D^-beta + E: X the model's parameters, D the examples that it was trained on, L one
minus the score (or an error such as Brier's). Of each run the newest eval/STEP/metrics.json counts; --metrics names
others. Writes DIR/scaling.json (a row a number, with 95 % intervals) and DIR/scaling.svg, and prints a table.
docs/SCALING_LAW.md says how it is fitted, and when it is refused.

Exit codes: 0 every law was fitted; 2 an error that you can fix; 3 at least one was refused: the reasons are printed
and stand in scaling.json, and the laws that were fitted stand beside them.
"""

import argparse
import sys
from collections.abc import Sequence

from rllava_jax.runtime import process_memory

if __name__ == "__main__":
    process_memory.start("rllava_jax.scaling")

import numpy as np

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import Parser, above_zero, file_or_folder, made_folder, run_command, whole
from data_pipelines.core.errors import MissingOption
from data_pipelines.core.paths import path_of, require_bucket
from rllava_jax.scaling_laws.fit import FACTORS, Factor, bootstrap, fit, interval, left_out_predictions
from rllava_jax.scaling_laws.points import FitTarget, Point, other_differences, points_of, read_runs, templates_of
from rllava_jax.scaling_laws.refusals import LEAST_CONVERGED, Outcome, after_fit, before_fit
from rllava_jax.scaling_laws.report import as_json, markdown_table, picture

REFUSED = 3


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see above."""
    return run_command(_parser(), _work, argv)


def _work(options: argparse.Namespace) -> int:
    factors = tuple(factor for factor in FACTORS if factor != options.without)
    if not options.runs and not options.metrics:
        raise MissingOption("RUN_DIR: is missing; give workdirs, or metrics.json files with --metrics")
    for name in (*options.runs, *options.metrics, options.out):
        require_bucket(path_of(name))
    runs = read_runs(
        [path_of(run) for run in options.runs], [path_of(file) for file in options.metrics],
        size=options.size, data=options.data,
    )  # fmt: skip
    templates = templates_of(runs, options.metric)
    out = made_folder(path_of(options.out))  # before the work that it is for
    outcomes = [
        fit_template(
            template, points_of(runs, template), factors,
            delta=options.huber_delta, resamples=options.bootstrap, seed=options.seed,
        )
        for template in templates
    ]  # fmt: skip
    settings = {
        "law": "L = A * X^-alpha * D^-beta + E", "factors": factors, "size": options.size, "data": options.data,
        "huber_delta": options.huber_delta, "bootstrap": options.bootstrap, "seed": options.seed,
        "runs_also_differ_in": other_differences(runs),
    }  # fmt: skip
    write_atomically(out / "scaling.json", as_json(outcomes, settings))
    write_atomically(out / "scaling.svg", picture(outcomes, factors))
    print(markdown_table(outcomes, factors), end="")
    return REFUSED if any(outcome.law is None for outcome in outcomes) else 0


def fit_template(
    template: FitTarget, points: Sequence[Point], factors: Sequence[Factor], *, delta: float, resamples: int, seed: int
) -> Outcome:
    """Fits one template's law, with intervals and left-out errors, or refuses to."""
    points = tuple(points)
    if refusals := tuple(before_fit(points, factors)):
        return Outcome(template, points, refusals)
    values = np.array([[getattr(point, factor) for factor in factors] for point in points], float)
    losses = np.array([point.loss for point in points])
    law = fit(factors, values, losses, delta=delta)
    resampled = bootstrap(law, values, losses, delta=delta, resamples=resamples, seed=seed, title=str(template))
    held = [each.parameters() for each in resampled if each.converged]
    freedom = len(points) - len(factors) - 2
    intervals = {}
    if len(held) >= LEAST_CONVERGED * resamples:
        intervals = {name: interval([each[name] for each in held], freedom=freedom) for name in law.parameters()}
    others = (losses.sum() - losses) / (len(losses) - 1)
    left_out = float(np.abs(left_out_predictions(law, values, losses, delta=delta) - losses).mean())
    of_mean = float(np.abs(others - losses).mean())
    predicted, errors = law.predict(values), np.array([point.error for point in points])
    residual = float(np.sqrt(np.mean((np.log(losses) - np.log(predicted)) ** 2)))
    misfit = float(np.sqrt(np.mean(((losses - predicted) / errors) ** 2))) if errors.min() > 0 else 0.0
    fitted = Outcome(template, points, (), law, intervals, left_out, of_mean, residual)
    refusals = tuple(after_fit(fitted, law, converged=len(held) / resamples, misfit=misfit))
    return Outcome(template, points, refusals) if refusals else fitted


def _parser() -> Parser:
    parser = Parser(prog="python -m rllava_jax.scaling", description=__doc__)
    parser.add_argument(
        "runs", nargs="*", type=file_or_folder, metavar="RUN_DIR", help="workdirs of runs that were evaluated"
    )
    parser.add_argument(
        "--metrics", nargs="+", action="extend", default=[], type=file_or_folder, metavar="FILE",
        help="RUN/eval/STEP/metrics.json files that count instead of a run's newest; the run itself is not named then",
    )  # fmt: skip
    parser.add_argument(
        "--out", required=True, type=file_or_folder, metavar="DIR", help="folder that the results are written to"
    )
    parser.add_argument(
        "--metric", nargs="+", action="extend", default=[], metavar="SUBSET/REGION/METRIC",
        help="templates to fit, e.g. family=identify/right/accuracy answer_type=open/right/f1 "
        "(default: each question family's main metric with the right region)",
    )  # fmt: skip
    parser.add_argument(
        "--size", choices=("total", "trainable"), default="total",
        help="X: all parameters of the model, token table included, or those that train (default: total)",
    )  # fmt: skip
    parser.add_argument(
        "--data", choices=("seen", "distinct"), default="seen",
        help="D: examples seen, repeats included (steps times batch), or distinct ones, which needs a run with "
        "train.log_examples (default: seen)",
    )  # fmt: skip
    parser.add_argument("--without", choices=FACTORS, help="fit the law without X (size) or without D (data)")
    parser.add_argument(
        "--huber-delta", type=above_zero, default=0.01,
        help="residual of log L beyond which runs count by absolute value, not by square (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--bootstrap", type=whole(100), default=1000, help="resamples behind intervals (default: %(default)s)"
    )
    parser.add_argument("--seed", type=whole(), default=0, help="of the resampling (default: 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
