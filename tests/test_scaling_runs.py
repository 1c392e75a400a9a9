"""Scaling laws of runs: what is read of their folders, and the command that fits them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from expected_errors import refused
from synthetic_laws import TEMPLATE, losses

from data_pipelines.core.errors import ConfigError, DataError
from rllava_jax import scaling
from rllava_jax.config import Config, DataConfig, LoraConfig, ModelConfig, OptimizerConfig, RegionConfig, TrainConfig
from rllava_jax.config.stored import to_json
from rllava_jax.model.sizes import SIZES, dimensions_of
from rllava_jax.scaling_laws.points import loss_of, points_of, read_runs, templates_of


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
        "dataset": "slake", "split": "test", "subset": subset, "condition": "right", "metric": metric,
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
        with refused(DataError, "file.missing", "examples.jsonl", "train.log_examples"):
            read([folder], data="distinct")

    def test_a_run_given_twice_is_refused(self, tmp_path):
        folder = write_run(tmp_path / "run")
        with refused(ConfigError, "option.conflict", str(tmp_path)):
            read([folder], [folder / "eval" / "100" / "metrics.json"])

    def test_a_folder_without_an_evaluation_is_named(self, tmp_path):
        with refused(DataError, "file.missing", f"{tmp_path}: ", "eval/STEP/metrics.json"):
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
        with refused(ConfigError, "option.invalid-value", "--metric"):
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
        with refused(DataError, "data.unknown-name", "family=identify/right/accuracy, family=identify/right/brier"):
            templates_of(found, ["family=identify/right/f1"])
        with refused(ConfigError, "option.invalid-value", "--metric"):
            templates_of(found, ["accuracy"])


class TestCommand:
    @pytest.mark.slow
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

    @pytest.mark.slow
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
            ([], "RUN_DIR"),
            (["nowhere"], "nowhere: holds no eval/STEP/metrics.json"),
            (["--metrics", "nowhere.json"], "nowhere.json: is not RUN/eval/STEP/metrics.json"),
            (["RUN", "--bootstrap", "5"], "--bootstrap: '5'"),
            (["RUN", "--huber-delta", "0"], "--huber-delta: '0'"),
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
        assert f"{folder / 'config.json'}: " in capsys.readouterr().err
