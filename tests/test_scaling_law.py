"""Scaling laws: recovered from synthetic losses whose law is known, refused where the runs cannot carry one."""

import numpy as np
import pytest
from synthetic_laws import TEMPLATE, losses

from rllava_jax import scaling
from rllava_jax.scaling_laws.fit import bootstrap, fit, interval, left_out_predictions
from rllava_jax.scaling_laws.points import Point
from rllava_jax.scaling_laws.refusals import before_fit

BOTH = ("size", "data")
SIZE = (8e4, 1.9e5, 5.2e5, 1.6e6)
DATA = (2_560, 7_040, 19_200)
TRUTH = {"A": 60.0, "alpha": 0.3, "beta": 0.25, "E": 0.15}


def grid(sizes=SIZE, data=DATA):
    return np.array([(size, amount) for size in sizes for amount in data], float)


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

    @pytest.mark.slow
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
        assert not list(before_fit(points(values, losses(values)), (other,)))

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
        assert not list(before_fit(points(values, losses(values), error=0.02), BOTH))

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

    @pytest.mark.slow
    def test_a_step_is_no_power(self):
        values = grid()
        found = outcome(points(values, np.where(values[:, 1] > 5_000, 0.2, 0.9)))
        assert "exponent_at_bound" in codes(found.refusals)

    @pytest.mark.slow
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
