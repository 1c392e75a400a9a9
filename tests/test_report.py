"""The report: complete, self-contained, and true to the rows."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import re
from html.parser import HTMLParser
from importlib import resources

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image
from report_examples import RIGHT_BOX, WRONG_BOX, asked, picture

from data_pipelines.core.errors import ConfigError, ImageError
from data_pipelines.regions.boxes import box_to_loc_tokens
from rllava_jax.evaluation.confidence.calibration import reliability_equal_mass
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.scoring import score
from rllava_jax.report.gallery import cases_of, choose_chapters, worst_first
from rllava_jax.report.line_plots import trust_picture
from rllava_jax.report.run_report import write_report

VOID = {"meta", "img", "br", "link", "input", "hr"}


def write(path, predictions, images=picture, trust=(), **changes) -> str:
    settings = {"title": "a run", "run": {"command": "python -m x", "seed": 7, "config": {"data": {"source": "slake"}}}}
    found = [*score(predictions, bootstrap=50, seed=0), *trust]
    write_report(path, rows=found, predictions=predictions, images=images, **{**settings, **changes})
    return path.read_text(encoding="utf-8")


@pytest.fixture
def several() -> list[Prediction]:
    localise = {
        "answer": box_to_loc_tokens(RIGHT_BOX) + " liver",
        "prediction": box_to_loc_tokens(WRONG_BOX) + " liver",
    }
    unshown = {"boxes": (), "box_labels": (), "right_boxes": (), "shown_kind": "none"}
    return [
        *(p for i in range(12) for p in asked(i, right=i % 4 > 0, none=i % 3 == 0)),
        *asked(20, family="localise", question="liver", **localise, **unshown),
        *(p for i in range(30, 36) for p in asked(i, family="vqa", content_type="Organ", answer_type="closed")),
        *(p for i in range(40, 44) for p in asked(i, family="vqa", content_type="Size", **unshown)),
    ]


class _Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]

    def handle_startendtag(self, tag, attrs):
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href") and v]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_nothing_beside_itself(tmp_path, several):
    page = _Balance()
    page.feed(write(tmp_path / "report.html", several))
    assert page.open == []
    assert all(r.startswith(("data:image/", "#")) for r in page.references)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_svg_identifiers_are_unique_on_the_page(tmp_path, several):
    identifiers = re.findall(r'\sid="([^"]+)"', write(tmp_path / "report.html", several))
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.slow
def test_the_same_evaluation_gives_the_same_page(tmp_path, several):
    assert write(tmp_path / "a.html", several) == write(tmp_path / "b.html", several)


def test_the_headline_shows_the_numbers_of_the_rows(tmp_path, several):
    page = write(tmp_path / "report.html", several)
    found = score(several, bootstrap=50, seed=0)
    for condition in ("right", "none", "wrong", "blank"):
        (row,) = [
            r for r in found if (r["subset"], r["condition"], r["metric"]) == ("family=identify", condition, "accuracy")
        ]
        assert f'<dd class="figure">{100 * row["value"]:.1f}<small> %</small></dd>' in page
    assert "the right region raises accuracy by 41.7 points" in page  # 9 of 12 right with it, 4 of 12 without


def test_the_page_says_what_it_is_not(tmp_path, several):
    page = write(tmp_path / "report.html", several)
    assert "For research use only." in page
    assert "Not a medical device" in page


def test_the_run_is_told(tmp_path, several):
    page = write(tmp_path / "report.html", several)
    assert "<code>python -m x</code>" in page
    assert "<code>data.source</code>" in page


def test_text_of_the_data_is_escaped(tmp_path):
    attack = "<script>alert(1)</script>"
    hostile = asked(0, question=attack, answer=attack, prediction=attack, modality=attack, content_type=attack)
    page = write(tmp_path / "report.html", hostile, title=attack, run={attack: attack})
    assert page.count("<script") == 1  # the page's own
    assert "alert(1)</script>" not in page
    assert "&lt;script&gt;" in page


def test_a_dollar_sign_in_the_data_stays(tmp_path):
    assert "costs $title" in write(tmp_path / "report.html", asked(0, question="costs $title"))


def test_right_and_wrong_boxes_lie_where_they_were(tmp_path):
    page = write(tmp_path / "report.html", asked(0))
    assert '<rect class="right" x="0.2000" y="0.1000" width="0.4000" height="0.4000"/>' in page
    assert '<rect class="wrong" x="0.5000" y="0.5000" width="0.2500" height="0.4000"/>' in page


def test_the_box_that_the_model_wrote_is_drawn_and_its_tokens_are_not_printed(tmp_path, several):
    page = write(tmp_path / "report.html", [p for p in several if p.family == "localise"])
    assert '<rect class="found" x="0.5' in page
    assert "<loc" not in page.replace("&lt;", "<")


def test_images_may_be_pixels_or_encoded_bytes_and_keep_their_shape(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (800, 400)).save(buffer, format="PNG")
    for images in (picture, lambda p: buffer.getvalue()):
        page = write(tmp_path / "report.html", asked(0), images=images)
        (encoded,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page)
        width, height = Image.open(io.BytesIO(base64.b64decode(encoded))).size
        assert width == 2 * height


def test_an_image_lost_since_the_run_does_not_cost_the_report(tmp_path):
    def lost(prediction):
        raise ImageError(f"{prediction.image_id}: cannot be read")

    assert "i0: cannot be read" in write(tmp_path / "report.html", asked(0), images=lost)


def test_one_condition_alone_still_makes_a_report(tmp_path):
    page = write(tmp_path / "report.html", [p for p in asked(0) if p.condition == "none"])
    assert "No region" in page
    assert "Wrong region" not in page


def test_a_question_without_a_region_is_not_said_to_be_misled_by_one():
    unshown = {"boxes": (), "right_boxes": (), "shown_kind": "none"}
    predictions = [
        *(p for i in range(20, 40) for p in asked(i, family="vqa", none=True, **unshown)),  # the more confident
        *(p for i in range(20) for p in asked(i, family="vqa", none=True)),
    ]
    chapters = {c.title: c.cases for c in choose_chapters(cases_of(predictions), size=30)}
    misled = chapters["Misled by a wrong region"]
    assert misled
    assert all(case.by_condition["wrong"].boxes for case in misled)


def test_the_gallery_keeps_to_its_size_and_shows_a_question_once(several):
    for size in (0, 1, 7, 24):
        chosen = [case.first.id for c in choose_chapters(cases_of(several), size=size) for case in c.cases]
        assert len(chosen) == len(set(chosen)) == min(size, 23)


def test_the_chapters_keep_their_rules(several):
    chapters = {c.title: c.cases for c in choose_chapters(cases_of(several), size=15)}
    for case in chapters["Decided by the region"]:
        assert case.right("right") is True
        assert case.right("none") is False
    worst = chapters["Worst: confident and wrong"]
    assert all(case.right("right") is False for case in worst)
    for case in chapters["Misled by a wrong region"]:
        assert case.right("wrong") is False
        assert case.by_condition["wrong"].boxes


def test_each_image_is_embedded_once_however_many_cards_show_it(tmp_path):
    page = write(tmp_path / "report.html", [p for i in range(12) for p in asked(i)], gallery=12)
    assert page.count('<article class="card"') == 12
    assert page.count("data:image/jpeg;base64,") == 5  # i0 to i4


def test_the_page_allows_no_request_and_no_script_but_its_own(tmp_path):
    page = write(tmp_path / "report.html", asked(0))
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page


def test_cards_stand_worst_first():
    cases = cases_of(
        [
            *asked(1, confidence=0.3),
            *asked(2, right=False, confidence=0.4),
            *asked(3, right=False, confidence=0.9),
            *asked(4, none=True, confidence=0.8),  # a right answer that the wrong box cost
            *asked(5, wrong=True, confidence=0.2),
        ]
    )
    numbers = [case.first.id.rsplit("/", 1)[1] for case in sorted(cases, key=worst_first)]
    assert numbers == ["3", "2", "4", "5", "1"]


@pytest.mark.parametrize(
    ("none", "wrong", "inside", "effect"),
    [
        (True, False, "", "lost"),
        (True, False, "the spleen", "followed"),  # what the answer names, by the rules of exact match
        (True, True, "spleen", "kept"),
        (False, True, "", "fixed"),
        (False, False, "", "wrong anyway"),
    ],
)
def test_what_a_wrong_box_did(none, wrong, inside, effect):
    (case,) = cases_of(asked(0, none=none, wrong=wrong))
    marked = dataclasses.replace(case.by_condition["wrong"], box_labels=(inside,))
    case.by_condition["wrong"] = marked
    assert case.gravest == marked
    assert case.effect(marked) == effect


def test_published_results_stand_only_beside_their_own_data_set(tmp_path):
    questions = [
        *(p for i in range(4) for p in asked(i, family="vqa")),
        *(p for i in range(4, 8) for p in asked(i, family="vqa", answer_type="closed")),
    ]
    page = write(tmp_path / "report.html", questions)
    assert "Other models, under other protocols" in page
    assert "<td>87.1</td><td>86.8</td>" in page  # LLaVA-Med (BiomedCLIP) on SLAKE
    assert "64.8" not in page  # on VQA-RAD
    others = [dataclasses.replace(p, dataset="phantom") for p in questions]
    assert "Other models" not in write(tmp_path / "other.html", others)


def _row(condition: str, metric: str, value: float) -> dict:
    return {
        "dataset": "slake", "split": "test", "subset": "all", "condition": condition, "metric": metric, "value": value,
        "n": 40, "ci_low": None, "ci_high": None,
    }  # fmt: skip


def test_the_trust_benchmark_is_shown_where_it_was_run(tmp_path):
    found = [
        *(_row("trust:right", m, v) for m, v in (("accuracy", 0.9), ("iou", 1.0))),
        _row("trust:none", "accuracy", 0.5),
        *(_row("trust:shifted:0.50", m, v) for m, v in (("accuracy", 0.7), ("iou", 0.5), ("lost", 0.225))),
        _row("trust", "trust_score", 0.625),
    ]
    page = write(tmp_path / "report.html", asked(0), trust=found)
    assert "Shifted to IoU 0.50" in page
    assert '<dd class="figure">62.5' in page
    assert "22.5" in page
    assert "Trust curve" not in write(tmp_path / "plain.html", asked(0))


def test_more_curves_than_a_picture_can_tell_apart_are_refused():
    point = 1.0, _row("trust:right", "accuracy", 0.9)
    assert trust_picture({"a": [point], "$b$": [point]}, {"a": 0.5}).startswith("<?xml")
    with refused(ConfigError, "option.invalid-value", "7 models"):
        trust_picture({name: [point] for name in "abcdefg"})


def test_dollar_signs_of_a_name_are_no_formula(tmp_path):
    assert "$\\frac$" in write(tmp_path / "report.html", asked(0, family="vqa", content_type="$\\frac$"))


def test_controls_and_corruptions_are_shown_where_they_were_asked(tmp_path):
    right = [p for i in range(6) for p in asked(i) if p.condition == "right"]
    further = [
        dataclasses.replace(p, condition=condition)
        for p in right
        for condition in ("noise", "shuffled", "question_only", "corrupted:blur:1", "corrupted:blur:5")
    ]
    page = write(tmp_path / "report.html", right + further)
    assert "Another question’s image" in page
    assert "Blur, level 5" in page
    assert "2 corruptions of the image" in page
    assert "5 further conditions" in page


def test_bins_of_equal_mass_hold_a_tenth_each_and_divide_ties_in_proportion():
    confidence = np.array([0.9] * 15 + [0.2] * 5)
    correct = np.array([1.0] * 9 + [0.0] * 6 + [1.0] + [0.0] * 4)
    bins = reliability_equal_mass(confidence, correct)
    assert [b.n for b in bins] == [2] * 10
    assert [round(b.confidence, 6) for b in bins] == [0.2, 0.2, 0.55] + [0.9] * 7
    assert [round(b.accuracy, 6) for b in bins] == [0.2, 0.2, 0.4] + [0.6] * 7  # the third: one of each group


def _contrast(first: str, second: str) -> float:
    """WCAG 2.2's ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_have_contrast_enough_on_a_light_and_a_dark_page():
    style = resources.files("rllava_jax.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for part in style.split("prefers-color-scheme")[:2])
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for paper in ("paper", "page", "shade"):
            for text in ("ink", "soft", "accent", "right", "wrong"):
                assert _contrast(colours[text], colours[paper]) >= 4.5, (text, paper)
        for line in ("field", "series-1", "series-2", "series-3", "series-4", "series-5"):
            assert _contrast(colours[line], colours["paper"]) >= 3, line
