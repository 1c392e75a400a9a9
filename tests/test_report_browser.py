"""The report in a real browser: it shows without an error, keeps to itself, filters, sorts, and fits a telephone."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from chromium import cards, chromium, console, requests, shown
from report_examples import asked, picture

from rllava_jax.evaluation.scoring import score
from rllava_jax.report.run_report import write_report

_UNSHOWN = {"boxes": (), "box_labels": (), "right_boxes": (), "shown_kind": "none"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    chromium()
    predictions = [
        *(p for i in range(12) for p in asked(i, right=i % 4 > 0, none=i % 3 == 0)),
        *(p for i in range(30, 36) for p in asked(i, family="vqa", content_type="Organ", answer_type="closed")),
        *(p for i in range(40, 44) for p in asked(i, family="vqa", content_type="Size", modality="MRI", **_UNSHOWN)),
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    found = score(predictions, bootstrap=20, seed=0)
    write_report(path, title="a run", rows=found, predictions=predictions, images=picture, run={"seed": 0}, gallery=22)
    return path


@pytest.fixture(scope="module")
def everything(page, tmp_path_factory):
    """The cards of the page as it opens, with what the browser logged, and its profile."""
    profile = tmp_path_factory.mktemp("opened") / "profile"
    dom, log = shown(page, profile)
    return dom, log, profile


def with_script(page, folder, script: str):
    """The page with one script more, as a reader's click would be; its policy then names both."""
    text = page.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = text.replace("script-src ", f"script-src 'sha256-{digest}' ")
    path = folder / "scripted.html"
    path.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return path


def test_the_page_shows_every_card_without_an_error_or_a_request(everything):
    dom, log, profile = everything
    assert len(cards(dom)) == 22
    assert "22 of 22 examples" in dom
    assert console(log) == []
    assert not [url for url in requests(profile) if "google" not in url]  # the browser's own, not the page's


def test_the_worst_cases_stand_first(everything):
    found = cards(everything[0])
    wrong = [c for c in found if c["right"] == "wrong"]
    assert found[: len(wrong)] == wrong
    assert [c["confidence"] for c in wrong] == sorted((c["confidence"] for c in wrong), reverse=True)


@pytest.mark.parametrize(
    ("fragment", "keep"),
    [
        ("#family=identify", lambda c: c["family"] == "identify"),
        ("#right=right&wrong=wrong&family=vqa", lambda c: c["family"] == "vqa"),
        ("#content_type=Size", lambda c: c["content_type"] == "Size"),
        ("#modality=MRI&sort=id", lambda c: c["modality"] == "MRI"),
        ("#q=vqa%2F4", lambda c: "vqa/4" in c["id"]),
    ],
)
def test_a_link_shows_just_the_matching_cards(page, everything, tmp_path, fragment, keep):
    found = cards(shown(page, tmp_path / "profile", fragment=fragment)[0])
    assert found
    assert {c["id"] for c in found} == {c["id"] for c in cards(everything[0]) if keep(c)}


def test_cards_can_be_sorted_by_confidence_and_by_id(page, tmp_path):
    sure = [c["confidence"] for c in cards(shown(page, tmp_path / "a", fragment="#sort=sure")[0])]
    assert sure == sorted(sure, reverse=True)
    ids = [c["id"] for c in cards(shown(page, tmp_path / "b", fragment="#sort=id&family=identify")[0])]
    assert ids == [f"slake/identify/{i}" for i in range(12)]  # 2 before 10


def test_a_filter_that_a_reader_sets_stands_in_the_address(page, tmp_path):
    script = (
        "const field = document.querySelector('select[name=family]'); field.value = 'vqa';"
        "field.dispatchEvent(new Event('input', {bubbles: true})); document.title = location.hash;"
    )
    dom, log = shown(with_script(page, tmp_path, script), tmp_path / "profile")
    assert {c["family"] for c in cards(dom)} == {"vqa"}
    assert "<title>#family=vqa</title>" in dom
    assert console(log) == []


def test_an_unknown_filter_and_a_link_to_a_section_hide_nothing(page, tmp_path):
    assert len(cards(shown(page, tmp_path / "a", fragment="#family=spleen&nonsense=1")[0])) == 22
    assert len(cards(shown(page, tmp_path / "b", fragment="#examples")[0])) == 22


@pytest.mark.parametrize("width", [380, 1280])
def test_nothing_sticks_out_sideways(page, tmp_path, width):
    # A window of its own has a least width, so that the page is measured in a frame of the wanted one.
    inner = with_script(page, tmp_path, "parent.postMessage(document.documentElement.scrollWidth, '*');")
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe src="{inner.name}" style="width:{width}px;height:800px;border:0"></iframe>'
        "<script>onmessage = (event) => { document.title = event.data; }</script>"
    )
    dom, _ = shown(outer, tmp_path / "profile", width=1400)
    assert int(re.search(r"<title>(\d+)</title>", dom)[1]) <= width


def test_without_scripts_every_card_stands_in_the_page_and_no_filter_is_offered(page):
    text = page.read_text(encoding="utf-8")
    assert text.count('<article class="card"') == 22
    assert re.search(r'<form id="filters"[^>]* hidden>', text)
