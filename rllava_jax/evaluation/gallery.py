"""The report's example questions: which ones, and the card of each."""

from __future__ import annotations

import base64
import io
import random
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import NamedTuple

from PIL import Image

from data_pipelines.boxes import boxes_from_text
from data_pipelines.records import Box, ImageError
from rllava_jax.evaluation.answers import score
from rllava_jax.evaluation.metrics import CONDITIONS
from rllava_jax.evaluation.predictions import Prediction

# The image a prediction is about: decoded, or its encoded bytes.
ImageOf = Callable[[Prediction], "Image.Image | bytes"]

_THUMBNAIL = 360  # pixels on the longer side
_LOC_RUN = re.compile(r"(?:<loc\d{4}>){4}")


class Case(NamedTuple):
    """One question with its prediction under each condition it was asked under."""

    by_region: dict[str, Prediction]

    @property
    def first(self) -> Prediction:
        return next(self.by_region[c] for c in CONDITIONS if c in self.by_region)

    def right(self, region: str) -> bool | None:
        """Whether the answer was right, None when not asked."""
        return bool(score(self.by_region[region])["accuracy"]) if region in self.by_region else None

    def shown(self, region: str) -> bool:
        """Whether a region was really shown; a question without one is asked plainly under every condition."""
        return region in self.by_region and bool(self.by_region[region].boxes)

    def confidence(self, region: str) -> float:
        return self.by_region[region].confidence if region in self.by_region else 0.0


class Chapter(NamedTuple):
    """A group of cases, chosen by one stated rule."""

    title: str
    rule: str
    cases: list[Case]


def cases_of(predictions: Iterable[Prediction]) -> list[Case]:
    """Gathers the predictions by question."""
    found: dict[tuple[str, str, str], Case] = {}
    for p in predictions:
        found.setdefault((p.dataset, p.split, p.id), Case({})).by_region[p.region] = p
    return list(found.values())


def choose_chapters(cases: Sequence[Case], *, size: int, seed: int = 0) -> list[Chapter]:
    """At most `size` cases in five chapters. A case stands in one chapter only; a chapter avoids repeating an image.

    The first chapter is a plain random draw: the others are picked to show something, and alone would mislead.
    """
    shuffled = sorted(cases, key=lambda case: case.first.id)
    random.Random(seed).shuffle(shuffled)

    def most_confident(region: str, keep: Callable[[Case], bool]) -> list[Case]:
        return sorted(filter(keep, shuffled), key=lambda case: -case.confidence(region))

    plans = [
        ("Drawn at random", "No selection: what an ordinary case looks like.", shuffled),
        (
            "Decided by the region",
            "Right with the region, wrong without it; the most confident first.",
            most_confident(
                "right", lambda c: c.shown("right") and c.right("right") is True and c.right("none") is False
            ),
        ),
        (
            "Misled by a wrong region",
            "Right without a region, wrong with the wrong one; the most confident first.",
            most_confident(
                "wrong", lambda c: c.shown("wrong") and c.right("wrong") is False and c.right("none") is True
            ),
        ),
        (
            "Worst: confident and wrong",
            "Wrong with everything in its favour: the image, and the right region where the question has one.",
            most_confident("right", lambda c: c.right("right") is False),
        ),
        (
            "Best: confident and right",
            "Right with the image, and the right region where the question has one.",
            most_confident("right", lambda c: c.right("right") is True),
        ),
    ]
    return _share_out(plans, size)


def _share_out(plans: Sequence[tuple[str, str, list[Case]]], size: int) -> list[Chapter]:
    """Gives each chapter its share of `size`; what a chapter cannot fill goes to those after it."""
    taken: set[str] = set()
    chapters = []
    for number, (title, rule, candidates) in enumerate(plans):
        share = -(-(size - len(taken)) // (len(plans) - number))
        chosen = _new_images_first([c for c in candidates if c.first.id not in taken])[:share]
        taken.update(case.first.id for case in chosen)
        if chosen:
            chapters.append(Chapter(title, rule, chosen))
    return chapters


def _new_images_first(cases: Sequence[Case]) -> list[Case]:
    seen: set[str] = set()
    fresh: list[Case] = []
    again: list[Case] = []
    for case in cases:
        (again if case.first.image_id in seen else fresh).append(case)
        seen.add(case.first.image_id)
    return fresh + again


def chapter_html(chapter: Chapter, image_of: ImageOf) -> str:
    """A heading, the rule of selection, and the cards."""
    cards = "\n".join(_card(case, image_of) for case in chapter.cases)
    return (
        f'<h3>{escape(chapter.title)}</h3>\n<p class="note">{escape(chapter.rule)}</p>\n'
        f'<div class="cards">{cards}</div>'
    )


def _card(case: Case, image_of: ImageOf) -> str:
    p = case.first
    tags = " · ".join(escape(t) for t in (p.family, p.content_type, p.modality) if t)
    choices = f'<p class="choices">Options: {escape(", ".join(p.choices))}</p>' if p.choices else ""
    asked = f"Find: {p.question}" if p.family == "localise" else p.question
    answers = "".join(_answer_row(c, case.by_region[c]) for c in CONDITIONS if c in case.by_region)
    return (
        f'<article class="card">{_figure(case, image_of)}<div class="card-text">'
        f'<p class="tags">{tags}</p><h4>{escape(asked)}</h4>{choices}'
        f'<p class="expected">Reference: <strong>{_answer_html(p.answer)}</strong></p>'
        f'<table class="answers"><thead><tr><th scope="col">Region</th><th scope="col">Answer</th>'
        f'<th scope="col">Confidence</th></tr></thead><tbody>{answers}</tbody></table>'
        f'<p class="id">{escape(p.id)}</p></div></article>'
    )


def _answer_row(condition: str, p: Prediction) -> str:
    scores = score(p)
    mark = '<span class="yes">✓</span>' if scores["accuracy"] else '<span class="no">✗</span>'
    verdict = "right" if scores["accuracy"] else "wrong"
    overlap = f' <span class="iou">IoU {scores["iou"]:.2f}</span>' if "iou" in scores else ""
    percent = round(100 * p.confidence)
    return (
        f'<tr><th scope="row"><i class="key {condition}"></i>{condition}{_shown_note(p)}</th>'
        f'<td>{mark}<span class="hidden">{verdict}: </span> {_answer_html(p.prediction)}{overlap}</td>'
        f'<td class="confidence"><span class="meter" aria-hidden="true"><i style="width:{percent}%"></i></span>'
        f"{percent}&nbsp;%</td></tr>"
    )


def _shown_note(p: Prediction) -> str:
    """What a reader would else assume wrongly: the kind of a wrong region, or that none was shown after all."""
    if p.shown_kind.startswith("wrong:"):
        inside = ", ".join(filter(None, p.box_labels))
        note = p.shown_kind.removeprefix("wrong:") + (f": {inside}" if inside else "")
    elif p.region in ("right", "wrong") and not p.boxes:
        note = "none shown"
    else:
        return ""
    return f"<small>{escape(note)}</small>"


def _answer_html(text: str) -> str:
    return escape(readable(text)) or "<em>empty</em>"


def readable(text: str) -> str:
    """An answer without its loc tokens: `<loc0001>… liver` becomes `▢ liver`; the box is drawn in the picture."""
    return _LOC_RUN.sub("▢", text)


def _figure(case: Case, image_of: ImageOf) -> str:
    p = case.first
    try:
        picture = f'<img src="{_data_uri(image_of(p))}" alt="{escape(p.modality or "image")} {escape(p.image_id)}">'
    except ImageError as error:  # one image lost since the run must not cost the whole report
        return f'<figure class="picture missing">{escape(str(error))}</figure>'
    boxes = [("right", box) for box in p.right_boxes]
    if "wrong" in case.by_region and case.by_region["wrong"].shown_kind.startswith("wrong:"):
        boxes += [("wrong", box) for box in case.by_region["wrong"].boxes]
    if p.family == "localise":
        boxes += [("right", box) for box in boxes_from_text(p.answer)[:1]]
        boxes += [("found", box) for box in boxes_from_text(p.prediction)[:1]]
    outlines = "".join(_outline(kind, box) for kind, box in boxes)
    overlay = f'<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">{outlines}</svg>' if boxes else ""
    return f'<figure class="picture"><div class="frame">{picture}{overlay}</div></figure>'


def _outline(kind: str, box: Box) -> str:
    y0, x0, y1, x1 = box
    place = f'x="{x0:.4f}" y="{y0:.4f}" width="{max(x1 - x0, 0):.4f}" height="{max(y1 - y0, 0):.4f}"'
    # The dark one beneath keeps the line visible on bright bone and on black air alike.
    return f'<rect class="under" {place}/><rect class="{kind}" {place}/>'


def _data_uri(image: Image.Image | bytes) -> str:
    picture = image if isinstance(image, Image.Image) else Image.open(io.BytesIO(image))
    picture = picture.convert("RGB")
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
