"""Scaling laws: recovered from synthetic losses whose law is known, refused where the runs cannot carry one."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data_pipelines.records import DataError
from rllava_jax import scaling
from rllava_jax.config import Config, DataConfig, LoraConfig, ModelConfig, OptimizerConfig, RegionConfig, TrainConfig
from rllava_jax.config_loading import to_json
from rllava_jax.model.sizes import SIZES, dimensions_of
from rllava_jax.scaling_fit import bootstrap, fit, interval, left_out_predictions
from rllava_jax.scaling_points import Point, Template, loss_of, points_of, read_runs, templates_of
from rllava_jax.scaling_refusals import before_fit

BOTH = ("size", "data")
SIZE = (8e4, 1.9e5, 5.2e5, 1.6e6)
DATA = (2_560, 7_040, 19_200)
TRUTH = {"A": 60.0, "alpha": 0.3, "beta": 0.25, "E": 0.15}
TEMPLATE = Template("slake", "test", "family=identify", "right", "accuracy")


def grid(sizes=SIZE, data=DATA):
    return np.array([(size, amount) for size in sizes for amount in data], float)


def losses(values, *, noise=0.0, seed=0, A=60.0, alpha=0.3, beta=0.25, E=0.15):
    exact = A * values[:, 0] ** -alpha * values[:, 1] ** -beta + E
    return exact * np.exp(noise * np.random.default_rng(seed).normal(size=len(values)))


def points(values, L, *, error=0.005):
    return [
        Point(f"run{i}", int(d) // 32, int(x), int(d), float(loss), error, 500)
        for i, ((x, d), loss) in enumerate(zip(values, L, strict=True))
    ]


def outcome(found, factors=BOTH, resamples=100):
    return scaling.fit_template(TEMPLATE, found, factors, delta=0.01, resamples=resamples, seed=0)


def codes(refusals):
    return {refusal.code for refusal in refusals}


class TestFit:
    @pytest.mark.parametrize(
        "truth",
        [
            TRUTH,
            {"A": 0.02 * 1e5, "alpha": 0.7, "beta": 0.1, "E": 0.02},
            {"A": 9.0, "alpha": 0.05, "beta": 0.3, "E": 0.0},
            {"A": 1e6, "alpha": 0.5, "beta": 1.0, "E": 0.4},
        ],
    )
    def test_a_law_without_noise_is_found_exactly(self, truth):
        values = grid()
        law = fit(BOTH, values, losses(values, **truth), delta=0.01)
        assert law.converged
        assert law.parameters() == pytest.approx(truth, rel=5e-3, abs=1e-3)

    def test_the_law_does_not_depend_on_the_order_or_the_units_of_the_runs(self):
        values = grid()
        L = losses(values, noise=0.02)
        law = fit(BOTH, values, L, delta=0.01)
        turned = fit(BOTH, values[::-1] / [1e6, 32], L[::-1], delta=0.01)
        assert turned.exponents == pytest.approx(law.exponents, abs=1e-4)
        assert turned.irreducible == pytest.approx(law.irreducible, abs=1e-4)
        assert turned.amplitude == pytest.approx(
            law.amplitude * 1e6 ** -law.exponents[0] * 32 ** -law.exponents[1], rel=1e-3
        )

    def test_one_wild_run_moves_a_robust_fit_less_than_least_squares(self):
        values = grid()
        L = losses(values, noise=0.005)
        L[4] *= 1.5
        robust, squares = (fit(BOTH, values, L, delta=delta).parameters() for delta in (0.01, 100.0))
        truth = losses(values)
        assert abs(robust["beta"] - 0.25) < abs(squares["beta"] - 0.25) / 2
        assert np.abs(fit(BOTH, values, L, delta=0.01).predict(values) / truth - 1).max() < 0.03

    def test_a_factor_left_out_gives_the_law_of_the_other(self):
        values = grid(sizes=(1e6,), data=(1e3, 2e3, 4e3, 8e3, 16e3, 32e3, 64e3))
        law = fit(("data",), values[:, 1:], losses(values), delta=0.01)
        assert set(law.parameters()) == {"A", "beta", "E"}
        assert law.parameters()["beta"] == pytest.approx(0.25, abs=0.01)
        assert law.parameters()["A"] == pytest.approx(60 * 1e6**-0.3, rel=0.05)

    def test_true_parameters_lie_in_their_intervals_as_often_as_promised(self):
        """30 draws of 12 runs: 95 % of the intervals, less the draws' own error and the tails that 60 resamples miss.

        benchmarks/scaling_coverage.py makes the figure of many draws (docs/SCALING_LAW.md).
        """
        values, hits = grid(), dict.fromkeys(TRUTH, 0)
        for seed in range(30):
            L = losses(values, noise=0.02, seed=seed)
            law = fit(BOTH, values, L, delta=0.01)
            held = [each.parameters() for each in bootstrap(law, values, L, delta=0.01, resamples=60, seed=seed)]
            for name, truth in TRUTH.items():
                low, high = interval([each[name] for each in held], freedom=8)
                hits[name] += low <= truth <= high
        assert all(count / 30 >= 0.8 for count in hits.values()), hits

    def test_the_same_seed_gives_the_same_resamples(self):
        values = grid()
        L = losses(values, noise=0.02)
        law = fit(BOTH, values, L, delta=0.01)
        first, again, other = (bootstrap(law, values, L, delta=0.01, resamples=3, seed=seed) for seed in (1, 1, 2))
        assert first == again != other

    def test_a_left_out_run_is_predicted_from_the_others(self):
        values = grid()
        exact = losses(values)
        law = fit(BOTH, values, exact, delta=0.01)
        assert left_out_predictions(law, values, exact, delta=0.01) == pytest.approx(exact, rel=2e-3)
        wild = exact.copy()
        wild[5] *= 2
        predicted = left_out_predictions(fit(BOTH, values, wild, delta=0.01), values, wild, delta=0.01)
        assert predicted[5] == pytest.approx(exact[5], rel=0.01)


class TestRefusals:
    def test_runs_that_carry_a_law_are_not_refused(self):
        values = grid()
        found = outcome(points(values, losses(values, noise=0.01)))
        assert found.refusals == ()
        assert set(found.intervals) == {"A", "alpha", "beta", "E"}
        low, high = found.intervals["alpha"]
        assert low < 0.3 < high
        assert found.left_out_error < found.left_out_error_of_mean / 4

    def test_too_few_runs_are_refused(self):
        values = grid(sizes=SIZE[:1] + SIZE[2:], data=DATA)[:7]
        (refusal,) = before_fit(points(values, losses(values)), BOTH)
        assert refusal.code == "too_few_runs"
        assert "7 runs for 4 parameters; at least 8" in refusal.reason

    @pytest.mark.parametrize(
        ("sizes", "data", "code"),
        [
            ((1e6,), np.geomspace(1e3, 1e5, 9), "size_constant"),
            (np.geomspace(1e5, 1e7, 9), (3_200,), "data_constant"),
            ((1e5, 1e6), np.geomspace(1e3, 1e5, 5), "size_levels"),
            (np.geomspace(1e5, 1e7, 4), (1_000, 2_000, 3_900), "data_range"),
        ],
    )
    def test_a_factor_that_hardly_varies_is_refused_and_its_leaving_out_offered(self, sizes, data, code):
        values = grid(sizes, data)
        (refusal,) = before_fit(points(values, losses(values)), BOTH)
        assert refusal.code == code
        assert f"--without {code.split('_')[0]}" in refusal.reason
        other = "data" if code.startswith("size") else "size"
        assert before_fit(points(values, losses(values)), (other,)) == []

    def test_larger_models_that_were_all_trained_longer_are_refused(self):
        values = np.array([(1e5 * 2.0**i, 1e3 * 2.0**i) for i in range(9)])
        (refusal,) = before_fit(points(values, losses(values)), BOTH)
        assert refusal.code == "factors_confounded"
        assert "correlated at 1.00" in refusal.reason

    def test_losses_that_differ_by_no_more_than_their_errors_are_refused(self):
        values = grid()
        noisy = 0.5 + 0.02 * np.random.default_rng(0).normal(size=len(values))
        (refusal,) = before_fit(points(values, noisy, error=0.02), BOTH)
        assert refusal.code == "flat_within_noise"
        assert before_fit(points(values, losses(values), error=0.02), BOTH) == []

    def test_a_perfect_run_is_refused(self):
        values = grid()
        L = losses(values)
        L[3] = 0
        (refusal,) = before_fit(points(values, L), BOTH)
        assert refusal.code == "loss_zero"
        assert "run3" in refusal.reason

    def test_runs_that_answer_nothing_are_refused_by_name(self):
        values = grid()
        L = np.minimum(losses(values, A=200.0, E=0.3), 1.0)
        (refusal,) = before_fit(points(values, L), BOTH)
        assert refusal.code == "loss_at_ceiling"
        assert f"in {(L == 1).sum()} of 12 runs (run0" in refusal.reason

    def test_losses_of_another_shape_are_refused(self):
        values = grid(data=np.geomspace(1e3, 1e5, 6))
        sigmoid = 0.2 + 0.7 / (1 + (values[:, 1] / 1e4) ** 3) * (values[:, 0] / 8e4) ** -0.05
        found = outcome(points(values, sigmoid))
        assert "other_shape" in codes(found.refusals)
        (reason,) = [refusal.reason for refusal in found.refusals if refusal.code == "other_shape"]
        assert "times their sampling errors" in reason

    def test_a_size_without_effect_is_refused_by_its_interval(self):
        values = grid()
        found = outcome(points(values, losses(values, noise=0.02, A=3.0, alpha=0.0)))
        assert found.law is None
        assert "exponent_includes_zero" in codes(found.refusals)
        (reason,) = [refusal.reason for refusal in found.refusals if refusal.code == "exponent_includes_zero"]
        assert reason.startswith("alpha = ")
        assert "includes 0" in reason

    def test_a_size_that_does_harm_is_refused(self):
        values = grid()
        found = outcome(points(values, losses(values, noise=0.005, A=0.05, alpha=-0.2)))
        assert any("below 0: more of it went with more loss" in refusal.reason for refusal in found.refusals)

    def test_a_step_is_no_power(self):
        values = grid()
        found = outcome(points(values, np.where(values[:, 1] > 5_000, 0.2, 0.9)))
        assert "exponent_at_bound" in codes(found.refusals)

    def test_noise_about_one_level_predicts_no_left_out_run(self):
        values = grid()
        noisy = 0.5 * np.exp(0.2 * np.random.default_rng(3).normal(size=len(values)))
        found = outcome(points(values, noisy))
        assert "no_better_than_mean" in codes(found.refusals)

    def test_fits_that_do_not_converge_are_refused(self, monkeypatch):
        values = grid()
        found = points(values, losses(values, noise=0.01))
        genuine = scaling.bootstrap

        def half(*args, **kwargs):
            laws = genuine(*args, **kwargs)
            return [type(law)(**{**vars(law), "converged": i % 2 == 0}) for i, law in enumerate(laws)]

        monkeypatch.setattr(scaling, "bootstrap", half)
        refused = outcome(found)
        assert codes(refused.refusals) == {"not_converged"}
        assert refused.refusals[0].reason.startswith("50% of the resampled fits")


def tiny(width, **lora):
    dimensions = dimensions_of(SIZES["tiny"]) | {
        "vision.width": width, "vision.mlp": 2 * width, "vision.depth": 1, "vision.image_size": 28,
        "decoder.width": width, "decoder.mlp": 2 * width, "decoder.depth": 1, "decoder.head_dim": width // 2,
        "decoder.query_scale": (width // 2) ** -0.5,
    }  # fmt: skip
    return Config(
        model=ModelConfig("custom", dimensions, vocab=64),
        regions=RegionConfig(encoders=("crop",), tokens=4, crop_size=28),
        data=DataConfig(source="slake", root="slake"),
        lora=LoraConfig(**lora),
        train=TrainConfig(batch_size=32),
    )


def row(subset, metric, value, n=500):
    half = 1.96 * 0.005
    return {
        "dataset": "slake", "split": "test", "subset": subset, "region": "right", "metric": metric,
        "value": value, "n": n, "ci_low": value - half, "ci_high": value + half,
    }  # fmt: skip


def write_run(folder, width=16, steps=100, loss=0.5, *, config=None, rows=None):
    """A run's folder as training and evaluation leave it, without its weights."""
    config = config or tiny(width)
    values = to_json(config) | {"train": to_json(config)["train"] | {"duration": f"{steps} steps"}}
    (folder / "eval" / str(steps)).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"config": values, "revision": "0" * 40}))
    rows = rows or [row("family=identify", "accuracy", 1 - loss), row("family=identify", "brier", loss / 2)]
    (folder / "eval" / str(steps) / "metrics.json").write_text(json.dumps(rows))
    (folder / "eval" / f"{steps}-validation").mkdir()
    (folder / "eval" / f"{steps}-validation" / "metrics.json").write_text("[]")
    lines = [{"step": s, "examples": [f"q{(2 * s) % 50}", f"q{(2 * s + 1) % 50}"]} for s in range(1, steps + 1)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


WIDTHS, STEPS = (8, 16, 32, 64), (100, 300, 900)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Twelve runs that follow the law, with 1 % of noise."""
    root = tmp_path_factory.mktemp("runs")
    sizes = {}
    for width in WIDTHS:
        (sizes[width],) = (run.size for run in read([write_run(root / f"size{width}", width)]))
    cells = [(width, steps) for width in WIDTHS for steps in STEPS]
    values = np.array([(sizes[width], 32 * steps) for width, steps in cells], float)
    found = losses(values, noise=0.01, A=100.0, alpha=0.35, beta=0.25, E=0.1)
    return [
        write_run(root / f"w{width}_s{steps}", width, steps, loss)
        for (width, steps), loss in zip(cells, found, strict=True)
    ]


def read(folders, files=(), size="total", data="seen"):
    return read_runs(folders, files, size=size, data=data)


class TestRuns:
    def test_size_data_and_loss_are_those_of_the_folder(self, tmp_path):
        folder = write_run(tmp_path / "run", 16, 100, 0.25)
        (run,) = read([folder])
        assert (run.step, run.data) == (100, 3_200)
        assert run.rows[TEMPLATE]["value"] == 0.75
        # token table, patch embedding, and the rest
        assert 64 * 16 + 14 * 14 * 3 * 16 < run.size < 20_000

    def test_the_newest_test_evaluation_counts_unless_a_file_is_named(self, tmp_path):
        folder = write_run(tmp_path / "run", steps=100)
        write_run(tmp_path / "other", steps=20)
        (tmp_path / "other" / "eval" / "20").rename(folder / "eval" / "20")
        assert read([folder])[0].step == 100
        assert read([], [folder / "eval" / "20" / "metrics.json"])[0].step == 20

    def test_with_lora_the_trainable_size_is_that_of_the_adapters_and_regions(self, tmp_path):
        folder = write_run(tmp_path / "run", config=tiny(16, rank=2))
        (total,), (trainable,) = read([folder]), read([folder], size="trainable")
        assert trainable.size < total.size / 2

    def test_distinct_examples_are_counted_from_the_log(self, tmp_path):
        (few,) = read([write_run(tmp_path / "few", steps=10)], data="distinct")
        (many,) = read([write_run(tmp_path / "many", steps=900)], data="distinct")
        assert (few.data, many.data) == (20, 50)

    def test_without_the_log_distinct_examples_are_an_error(self, tmp_path):
        folder = write_run(tmp_path / "run")
        (folder / "examples.jsonl").unlink()
        with pytest.raises(DataError, match=r"examples\.jsonl: distinct examples .*train\.log_examples"):
            read([folder], data="distinct")

    def test_a_run_given_twice_is_refused(self, tmp_path):
        folder = write_run(tmp_path / "run")
        with pytest.raises(DataError, match="is given twice"):
            read([folder], [folder / "eval" / "100" / "metrics.json"])

    def test_a_folder_without_an_evaluation_is_named(self, tmp_path):
        with pytest.raises(DataError, match=rf"{tmp_path}: holds no eval/STEP/metrics\.json"):
            read([tmp_path])

    def test_another_difference_between_the_runs_is_warned_of(self, tmp_path, caplog):
        other = replace(tiny(8), optimizer=OptimizerConfig(learning_rate=0.5))
        read([write_run(tmp_path / "a", 16), write_run(tmp_path / "b", config=other)])
        assert "the runs also differ in optimizer.learning_rate" in caplog.text
        assert "model.dimensions" not in caplog.text

    def test_a_run_asked_before_its_schedule_ended_is_warned_of(self, tmp_path, caplog):
        folder = write_run(tmp_path / "run", steps=100)
        (folder / "eval" / "100").rename(folder / "eval" / "60")
        read([folder])
        assert "evaluated at step 60 of 100" in caplog.text

    def test_a_score_without_an_interval_has_its_binomial_error(self, tmp_path):
        without = [row("family=verify", "accuracy", 0.5) | {"ci_low": ends, "ci_high": ends} for ends in (None, 0.5)]
        for number, one in enumerate(without):
            (run,) = read([write_run(tmp_path / f"run{number}", rows=[one])])
            (point,) = points_of([run], next(iter(run.rows)))
            assert point.error == pytest.approx(0.5 / 500**0.5)

    def test_scores_become_losses_and_errors_stay(self):
        assert loss_of("accuracy", 0.75) == 0.25
        assert loss_of("brier", 0.75) == 0.75
        with pytest.raises(DataError, match="neither a score nor an error"):
            loss_of("confidence", 0.5)

    def test_each_family_has_a_template_by_its_main_metric(self, tmp_path):
        rows = [
            row("all", "accuracy", 0.5),
            row("family=localise", "iou", 0.5),
            row("family=localise", "accuracy@0.5", 0.4),
        ]
        found = templates_of(read([write_run(tmp_path / "run", rows=rows)]), [])
        assert [(t.subset, t.metric) for t in found] == [("family=localise", "accuracy@0.5")]

    def test_a_metric_that_no_run_has_names_those_that_there_are(self, tmp_path):
        found = read([write_run(tmp_path / "run")])
        with pytest.raises(DataError, match="there are family=identify/right/accuracy, family=identify/right/brier"):
            templates_of(found, ["family=identify/right/f1"])
        with pytest.raises(DataError, match="is not SUBSET/REGION/METRIC"):
            templates_of(found, ["accuracy"])


class TestCommand:
    def test_a_law_is_written_printed_and_drawn(self, runs, tmp_path, capsys):
        out = tmp_path / "out"
        arguments = ["--metric", "family=identify/right/accuracy", "--bootstrap", "100"]
        assert scaling.main([*map(str, runs), "--out", str(out), *arguments]) == 0
        written = json.loads((out / "scaling.json").read_text())
        rows = {line["quantity"]: line for line in written["rows"]}
        assert list(rows) == ["A", "alpha", "beta", "E", "log_residual", "left_out_error", "left_out_error_of_mean"]
        for name, truth in {"alpha": 0.35, "beta": 0.25, "E": 0.1}.items():
            assert rows[name]["ci_low"] <= truth <= rows[name]["ci_high"]
            assert rows[name]["n"] == 12
        assert written["fits"] == [{**TEMPLATE._asdict(), "fitted": True, "refusals": []}]
        assert len(written["points"]) == 12
        assert written["settings"]["seed"] == 0
        printed = capsys.readouterr().out
        assert f"{rows['alpha']['value']:.3g} (" in printed
        picture = (out / "scaling.svg").read_text()
        assert "<svg" in picture
        assert "http://" not in picture.replace("http://www.w3.org", "").replace("http://purl.org", "")

    def test_a_refusal_is_printed_written_and_status_three(self, runs, tmp_path, capsys):
        out = tmp_path / "out"
        assert scaling.main([*map(str, runs[:5]), "--out", str(out), "--bootstrap", "100"]) == 3
        written = json.loads((out / "scaling.json").read_text())
        assert written["rows"] == []
        (entry,) = written["fits"]
        assert not entry["fitted"]
        assert "too_few_runs" in {refusal["code"] for refusal in entry["refusals"]}
        assert "5 runs for 4 parameters" in capsys.readouterr().out
        assert "<svg" in (out / "scaling.svg").read_text()

    def test_data_can_be_left_out(self, tmp_path):
        folders = []
        for width in (8, 12, 16, 24, 32, 48, 64):
            (run,) = read([write_run(tmp_path / f"size{width}", width)])
            folders.append(write_run(tmp_path / f"w{width}", width, 100, 30 * run.size**-0.5 + 0.1))
        out = tmp_path / "out"
        line = [*map(str, folders), "--out", str(out), "--bootstrap", "100"]
        line += ["--metric", "family=identify/right/accuracy"]
        assert scaling.main(line) == 3
        assert scaling.main([*line, "--without", "data"]) == 0
        rows = {r["quantity"]: r["value"] for r in json.loads((out / "scaling.json").read_text())["rows"]}
        assert rows["alpha"] == pytest.approx(0.5, abs=0.01)
        assert "beta" not in rows

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "no runs"),
            (["nowhere"], "nowhere: holds no eval/STEP/metrics.json"),
            (["--metrics", "nowhere.json"], "nowhere.json: is not RUN/eval/STEP/metrics.json"),
            (["RUN", "--bootstrap", "5"], "--bootstrap 5: is too few"),
            (["RUN", "--huber-delta", "0"], "--huber-delta 0.0: is not above 0"),
            (
                ["RUN", "--metric", "family=identfy/right/accuracy"],
                "no run has it; there are the subsets family=identify",
            ),
        ],
    )
    def test_what_cannot_be_read_is_one_line_and_status_two(self, arguments, message, runs, tmp_path, capsys):
        arguments = [str(runs[0]) if argument == "RUN" else argument for argument in arguments]
        assert scaling.main([*arguments, "--out", str(tmp_path / "out")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
        assert not (tmp_path / "out").exists()

    def test_a_damaged_configuration_is_named(self, tmp_path, capsys):
        folder = write_run(tmp_path / "run")
        (folder / "config.json").write_text("{")
        assert scaling.main([str(folder), "--out", str(tmp_path / "out")]) == 2
        assert f"{folder / 'config.json'}: is no run's configuration" in capsys.readouterr().err
