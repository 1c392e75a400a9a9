import json

from rllava_jax.report import summary


def row(subset, condition, value, metric="accuracy"):
    return {
        "dataset": "slake", "split": "test", "subset": subset, "condition": condition, "metric": metric,
        "value": value, "n": 10, "ci_low": value - 0.1, "ci_high": value + 0.1,
    }  # fmt: skip


def results(folder):
    rows = [row("family=identify", "right", 0.8), row("family=identify", "none", 0.3), row("all", "right", 0.5)]
    (folder / "metrics.json").write_text(json.dumps(rows))
    return str(folder)


def test_the_headline_is_printed_as_a_markdown_table(tmp_path, capsys):
    assert summary.main([results(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| family=identify | accuracy | 10 | 80.0 (70.0 to 90.0) | 30.0 (20.0 to 40.0) |" in out
    assert "| all |" not in out


def test_the_picture_is_svg_with_the_figures_of_the_rows(tmp_path):
    assert summary.main([results(tmp_path), "--picture", str(tmp_path / "bars.svg")]) == 0
    picture = (tmp_path / "bars.svg").read_text()
    assert picture.startswith("<svg")
    assert "80" in picture


def test_a_folder_without_results_or_an_unknown_subset_is_one_line(tmp_path, capsys):
    assert summary.main([str(tmp_path)]) == 2
    assert summary.main([results(tmp_path), "--subsets", "family=idenify"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "metrics.json") in first
    assert "family=idenify" in second
    assert "family=identify" in second
    assert first.endswith("[file.missing]")
    assert second.endswith("[data.unknown-name]")
