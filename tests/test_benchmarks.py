"""The arithmetic of benchmarks/peers.py, and this project's side of it at a toy size. Peers are not needed."""

import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rllava_jax.config import MeshConfig
from rllava_jax.interop.import_checkpoint import imported_config
from rllava_jax.model.inputs import Inputs
from rllava_jax.model.params import build

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from speed import ours, report, rounds
from speed.flops import example_flops
from speed.setting import SETTINGS, prepare, prompts, training_batch
from speed.spread import ratio, spread
from speed.worker import open_task

TOY = SETTINGS["toy"]


def test_a_ratio_is_taken_round_by_round():
    # A moment that slows both down by ten changes no ratio.
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == (3.0, 2.0, 4.0)
    assert spread([3.0, 1.0, 2.0]) == (2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="longer"):
        ratio([1.0], [1.0, 2.0])


def dot_flops(jaxpr: jax.extend.core.Jaxpr) -> int:
    """Two for every multiply-add of the program's matrix products, those in scans as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * dot_flops(inner)
    return total


def test_flops_are_those_of_the_matrix_products_in_the_traced_model():
    config = imported_config(TOY.size)
    model = nnx.eval_shape(lambda: build(config, vocab=TOY.size.decoder.vocab))
    inputs = Inputs.from_batch({k: jnp.asarray(v) for k, v in ours.model_batch(training_batch(TOY)).items()})
    graphdef, state = nnx.split(model)
    traced = jax.make_jaxpr(lambda state: nnx.merge(graphdef, state)(inputs).logits)(state)
    counted = TOY.batch * example_flops(TOY.size, text=TOY.text, predicted=TOY.text, training=False)
    assert dot_flops(traced.jaxpr) == counted


def test_settings_have_the_size_that_they_say():
    for name in ("deep", "wide", "vocabulary"):
        assert 22.7e6 < SETTINGS[name].parameters() < 23.0e6
        assert SETTINGS[name].size.decoder.vocab % 64 == 0
        assert SETTINGS[name].ids < SETTINGS[name].size.decoder.vocab


def test_every_example_has_as_many_answer_tokens_and_none_is_cut():
    batch = training_batch(TOY)
    assert (batch.answer.sum(axis=1) == TOY.answer).all()
    assert (batch.length <= TOY.text).all()
    assert (batch.text[~batch.valid] == 0).all()
    assert (prompts(TOY, 8).length == TOY.prompt).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speed")
    prepare(folder, TOY)
    return folder


@pytest.fixture
def one_device(monkeypatch):
    # Timings are of one device; the tests have eight simulated ones.
    mesh = ours.make_mesh(MeshConfig(), jax.devices()[:1])
    monkeypatch.setattr(ours, "make_mesh", lambda config: mesh)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_the_toy_setting_trains_and_decodes(folder):
    run, values = open_task("rllava_jax", folder, TOY, "training step")
    first, second, third = values["losses"]
    assert first > second > third > run()
    run, values = open_task("rllava_jax", folder, TOY, "decode 8")
    assert values["tokens"].shape == (8, TOY.new_tokens)
    np.testing.assert_array_equal(run(), values["tokens"])


def test_results_that_differ_end_the_run():
    logits = np.array([1.0, -2.0])
    same = {"rllava_jax": {"logits": logits}, "peer": {"logits": logits + 1e-5}}
    assert rounds.compare(same, "forward") == pytest.approx(5e-6)
    with pytest.raises(RuntimeError, match=r"forward: logits of peer differs from rllava_jax's by 5\.0e-04"):
        rounds.compare({**same, "peer": {"logits": logits + 1e-3}}, "forward")
    with pytest.raises(RuntimeError, match="tokens"):
        rounds.compare({"rllava_jax": {"tokens": [[1, 2]]}, "peer": {"tokens": [[1]]}}, "decode 1")


def test_tables_name_the_fastest_peer_the_goals_and_the_share_of_the_peak(tmp_path):
    def add(part, **content):
        return report.add(tmp_path / "measured.json", part, content, command="python benchmarks/peers.py", seed=3)

    add("peak", rates={"jax": {"512": 2e11}}, best={"jax": 2e11})
    seconds = {"rllava_jax": [1.0, 1.0], "transformers": [1.6, 1.6], "keras-hub": [1.2, 1.2]}
    measured = add("deep/training step", seconds=seconds, parameters=22_922_496, flops=1.1e11)
    text = report.tables(measured)
    assert "| training step | 1,000 (1,000–1,000) | 1,600 (1,600–1,600) | 1,200 (1,200–1,200) |" in text
    assert "1.20 × (1.20–1.20) (keras-hub)" in text
    assert "| training step: at least 1.4 × transformers | 1.60 × (1.60–1.60) | met |" in text
    assert "55% of jax's peak (goal: 60%; of jax's own: missed)" in text
    assert "`python benchmarks/peers.py` (seed 3)" in text

    document = tmp_path / "PERFORMANCE.md"
    document.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n")
    report.put_into(document, "new")
    assert document.read_text() == "before\n<!-- measured: begin -->\n\nnew\n<!-- measured: end -->\nafter\n"


@pytest.mark.slow
def test_growth_counts_the_crops_and_the_tokens_of_regions(monkeypatch):
    from speed import growth

    mesh = ours.make_mesh(MeshConfig(), jax.devices()[:1])
    monkeypatch.setattr(growth, "make_mesh", lambda config: mesh)
    (row,) = growth.measure_growth(TOY, (growth.Case("regions", 2, side=56, regions=2),), repeats=1)
    plain = example_flops(TOY.size, text=39, predicted=8, training=True)
    assert row["least"] <= row["seconds"] <= row["most"]
    # Two crops of 64 patches beside an image of 16, and 2 · 16 tokens beside its 16 and the 39 of the text.
    assert 2 < row["flops"] / plain < 3
