"""Texts of the data in pictures are literal: every plot, with names that a picture might take for something else."""

import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from rllava_jax.evaluation.metrics import make_row
from rllava_jax.report import line_plots, plots

ROW = make_row("d", "test", "all", "right", "accuracy", 0.5, 10, (0.4, 0.6))
CURVE = (np.array([0.5, 1.0]), np.array([0.5, 0.5]))
# Every function that makes a picture of names that come from data, settings or paths; and how many names it takes.
PLOTS = {
    "bars": (
        99,
        lambda names: plots.grouped_bars({n: {"right": ROW} for n in names}, chance=dict.fromkeys(names, 0.5)),
    ),
    "reliability": (99, lambda names: plots.reliability_plot({n: [] for n in names})),
    "risk and coverage": (99, lambda names: plots.risk_coverage_plot(dict.fromkeys(names, CURVE))),
    "trust": (5, lambda names: line_plots.trust_plot({n: {"shifted": [(0.5, ROW)]} for n in names}, {names[0]: 0.5})),
    "corruption": (5, lambda names: line_plots.corruption_plot({n: {1: ROW} for n in names}, None)),
    "dots by group": (99, lambda names: line_plots.dot_plot({n: {"right": ROW, "none": ROW} for n in names}, names[0])),
    "dots by condition": (99, lambda names: line_plots.dot_plot({"b": dict.fromkeys(names, ROW)}, names[0])),
    "file": (6, lambda names: line_plots.trust_picture({n: [(0.5, ROW)] for n in names}, {names[0]: 0.5})),
}
# What is shown of each; those first that differ most, since some pictures take few.
SHOWN = {
    "$$": "$$", "_hidden": "_hidden", "nul\0": "nul\ufffd", "#010203": "#010203", "-->": "-->", "\ud800x": "\ufffdx",
    "two\nlines": "two lines", "bell\a": "bell\ufffd", "\uffff!": "\ufffd!",
    **{name: name for name in (
        "$x$", "$\\frac$", "a_b^c", "_child0", "<script>alert(1)</script>", "</svg>", "]]>", "a--b", "&amp;",
        "font-family: x\">y", "<style>x</style>", '<g id="k"', "\\textbf{a}", "%d {0} ${a}", "~/runs/a#b?c",
    )},
}  # fmt: skip


def _texts(picture):
    """Of the picture's XML, which must be well formed."""
    root = ElementTree.fromstring(str(picture))
    return ["".join(element.itertext()) for element in root.iter() if element.tag.rpartition("}")[2] == "text"]


@pytest.mark.parametrize("plot", PLOTS)
def test_every_name_is_shown_as_it_is(plot):
    most, draw = PLOTS[plot]
    names = list(SHOWN)[:most]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = draw(names)
    texts = _texts(picture)
    assert "<script" not in str(picture)
    if plot != "file":  # in which letters are drawn
        for name in names:
            assert any(SHOWN[name] in text for text in texts), (name, texts)
