"""A calibration made up for tests: temperature 2, and stops that promise 0.15, 0.2 and 0.5."""

import numpy as np

from rllava_jax.inference.calibration import Calibration, Estimate, Stop

FIGURES = {name: Estimate(0.1, None, None) for name in ("nll", "brier", "ece", "ece_equal_mass")}
CALIBRATION = Calibration(
    temperature=Estimate(2.0, 1.5, 2.5),
    bias=Estimate(0.0, -0.1, 0.1),
    stops=(
        Stop(float(np.log(0.8)), 2 / 3, 30, 1, 0.15, 1.0),
        Stop(float(np.log(0.5)), 0.5, 60, 6, 0.2, 1.2),
        Stop(None, 0.0, 100, 40, 0.5, 1.4),
    ),
    target_risks=(0.1, 0.2),
    questions=100,
    images=50,
    accuracy=0.6,
    dataset="made",
    split="validate",
    condition="right",
    families=("vqa",),
    before=FIGURES,
    after=FIGURES,
    failure_chance=0.05,
    max_new_tokens=6,
    made_by={"step": 4},
)
