"""The report: complete, self-contained, and true to the rows."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from data_pipelines.boxes import box_to_loc_tokens
from data_pipelines.records import ImageError
from rllava_jax.evaluation.gallery import cases_of, choose_chapters
from rllava_jax.evaluation.metrics import rows
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.report import write_report

RIGHT_BOX, WRONG_BOX = (0.1, 0.2, 0.5, 0.6), (0.5, 0.5, 0.9, 0.75)
VOID = {"meta", "img", "br", "link", "input", "hr"}


def asked(number: int, *, family: str = "identify", right=True, none=False, wrong=False, **changes) -> list[Prediction]:
    """One question under all four conditions."""
    found = []
    for region, correct in (("right", right), ("none", none), ("wrong", wrong), ("blank", none)):
        boxes = {"right": (RIGHT_BOX,), "blank": (RIGHT_BOX,), "wrong": (WRONG_BOX,), "none": ()}[region]
        kind = {"right": "right", "blank": "right", "wrong": "wrong:shifted", "none": "none"}[region]
        fields = {
            "id": f"slake/{family}/{number}",
            "dataset": "slake",
            "split": "test",
            "image_id": f"i{number % 5}",
            "question": "What is the marked structure?",
            "answer": "Liver",
            "prediction": "liver" if correct else "spleen",
            "confidence": (10 + number % 80) / 100,
            "log_prob": -1.0,
            "family": family,
            "answer_type": "open",
            "region": region,
            "shown_kind": kind,
            "boxes": boxes,
            "box_labels": ("",) * len(boxes),
            "right_boxes": (RIGHT_BOX,),
            "modality": "CT",
        }
        found.append(Prediction(**{**fields, **changes}))
    return found


def picture(prediction: Prediction) -> Image.Image:
    return Image.new("L", (800, 400), 90)


def write(path, predictions, images=picture, **changes) -> str:
    settings = {"title": "a run", "run": {"command": "python -m x", "seed": 7, "config": {"data": {"source": "slake"}}}}
    found = rows(predictions, bootstrap=50, seed=0)
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


def test_the_same_evaluation_gives_the_same_page(tmp_path, several):
    assert write(tmp_path / "a.html", several) == write(tmp_path / "b.html", several)


def test_the_headline_shows_the_numbers_of_the_rows(tmp_path, several):
    page = write(tmp_path / "report.html", several)
    found = rows(several, bootstrap=50, seed=0)
    for region in ("right", "none", "wrong", "blank"):
        (row,) = [
            r for r in found if (r["subset"], r["region"], r["metric"]) == ("family=identify", region, "accuracy")
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
    assert "<script" not in page
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
    page = write(tmp_path / "report.html", [p for p in asked(0) if p.region == "none"])
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
    assert all(case.shown("wrong") for case in misled)


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
        assert case.shown("wrong")
