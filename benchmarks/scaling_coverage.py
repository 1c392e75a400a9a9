"""How often the intervals of rllava_jax/scaling_laws/fit.py hold the truth, on losses drawn from a known law.

    python benchmarks/scaling_coverage.py --draws 80 --resamples 150

Twelve runs (four sizes, three amounts of data) with A = 60, alpha = 0.3, beta = 0.25, E = 0.15 and 2 % of normal noise,
the draws numbered by their seeds. Prints, for each --huber-delta, the share of intervals that hold the truth, of ours
and of the plain 2.5 and 97.5 percentiles, and the median width of alpha's.
"""

from __future__ import annotations

import argparse

import numpy as np
from tqdm import tqdm

from rllava_jax.scaling_laws.fit import FACTORS, bootstrap, fit, interval

TRUTH = {"A": 60.0, "alpha": 0.3, "beta": 0.25, "E": 0.15}
RUNS = np.array([(size, data) for size in (8e4, 1.9e5, 5.2e5, 1.6e6) for data in (2_560, 7_040, 19_200)])
NOISE = 0.02
DELTAS = (0.01, 0.03, 0.1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=80)
    parser.add_argument("--resamples", type=int, default=150)
    options = parser.parse_args()
    print(f"| huber-delta | {' | '.join(TRUTH)} | plain percentiles, mean of the four | width of alpha's |")
    print(f"|--:|{'--:|' * (len(TRUTH) + 2)}")
    for delta in DELTAS:
        ours, plain, width = coverage(delta, draws=options.draws, resamples=options.resamples)
        shares = " | ".join(f"{share:.0%}" for share in ours.values())
        print(f"| {delta:g} | {shares} | {np.mean(list(plain.values())):.0%} | {width:.3f} |", flush=True)


def coverage(delta: float, *, draws: int, resamples: int) -> tuple[dict[str, float], dict[str, float], float]:
    """Shares of intervals that hold the truth, by parameter: ours, and plain percentiles; median width of alpha's."""
    exact = TRUTH["A"] * RUNS[:, 0] ** -TRUTH["alpha"] * RUNS[:, 1] ** -TRUTH["beta"] + TRUTH["E"]
    ours, plain, widths = dict.fromkeys(TRUTH, 0.0), dict.fromkeys(TRUTH, 0.0), []
    for seed in tqdm(range(draws), desc=f"delta {delta:g}", disable=None):
        losses = exact * np.exp(NOISE * np.random.default_rng(seed).normal(size=len(RUNS)))
        law = fit(FACTORS, RUNS, losses, delta=delta)
        resampled = bootstrap(law, RUNS, losses, delta=delta, resamples=resamples, seed=seed)
        held = [each.parameters() for each in resampled]
        for name, truth in TRUTH.items():
            values = [each[name] for each in held]
            low, high = interval(values, freedom=len(RUNS) - len(TRUTH))
            ours[name] += (low <= truth <= high) / draws
            near, far = np.quantile(values, [0.025, 0.975])
            plain[name] += (near <= truth <= far) / draws
            if name == "alpha":
                widths.append(high - low)
    return ours, plain, float(np.median(widths))


if __name__ == "__main__":
    main()
