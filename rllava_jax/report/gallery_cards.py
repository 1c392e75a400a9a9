"""The card of each example question, and the gallery around them.

Every image is embedded once, however many cards show it: the cards refer to it by name. The filters are plain
JavaScript (`gallery.js`); without it the page shows every card in the order in which it stands, the worst first.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from PIL import Image

from data_pipelines.conditions import ALL, CONTROLS, MAIN
from data_pipelines.core.errors import ImageError
from data_pipelines.records import Box
from data_pipelines.regions.boxes import boxes_from_text
from rllava_jax.evaluation.answers import score
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.report.condition_names import condition_name
from rllava_jax.report.gallery import EFFECTS, Case, ImageOf, is_right

_THUMBNAIL = 360  # pixels on the longer side
_LOC_RUN = re.compile(r"(?:<loc\d{4}>){4}")
_FILTERED_CONDITIONS = (*MAIN, *CONTROLS, "trust:right", "trust:none")
LEGEND = (
    '<ul class="legend"><li><i></i>right region</li><li><i class="wrong"></i>wrong region</li>'
    '<li><i class="found"></i>box written by the model (localise)</li></ul>'
)


class Album:
    """The images of a page, each encoded once under a name of its own."""

    def __init__(self, image_of: ImageOf) -> None:
        self._image_of = image_of
        self._held: dict[tuple[str, str], tuple[int, int, str] | str] = {}

    def size(self, p: Prediction) -> tuple[int, int] | str:
        """Width and height in pixels of the image of a prediction; where it cannot be had, what is wrong with it."""
        held = self._held.get(_key(p))
        if held is None:
            try:
                held = _encoded(self._image_of(p))
            except ImageError as error:  # one image lost since the run must not cost the whole report
                held = str(error)
            self._held[_key(p)] = held
        return held if isinstance(held, str) else held[:2]

    def name(self, p: Prediction) -> str:
        """What a card refers to; call `size` first."""
        return f"image-{list(self._held).index(_key(p))}"

    def html(self) -> str:
        """The definitions, unseen; at the end of the page, so that text is not kept waiting for them."""
        pictures = "".join(
            f'<image id="image-{number}" width="{held[0]}" height="{held[1]}" href="{held[2]}"/>'
            for number, held in enumerate(self._held.values())
            if not isinstance(held, str)
        )
        return f'<svg class="hidden" width="0" height="0" aria-hidden="true"><defs>{pictures}</defs></svg>'


def _key(p: Prediction) -> tuple[str, str]:
    return p.dataset, p.image_id


def _encoded(image: Image.Image | bytes) -> tuple[int, int, str]:
    picture = image if isinstance(image, Image.Image) else Image.open(io.BytesIO(image))
    picture = picture.convert("RGB")
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88)
    return *picture.size, f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def filters_html(values: Sequence[Mapping[str, str | float]], groups: str = "Group") -> str:
    """The form above the cards, unseen until the script shows it; only what has something to choose.

    Args:
      values: of every card, as `card_values` gives them.
      groups: what the field "group" is called.
    """
    titles = {"group": groups, "family": "Question family", "content_type": "Content type", "modality": "Modality"}
    titles |= {"effect": "What a wrong box did"}
    titles |= {c: condition_name(c) for c in _FILTERED_CONDITIONS}
    fields = []
    for name, title in titles.items():
        found = list(dict.fromkeys(str(v[name]) for v in values if v.get(name)))
        found = [e for e in EFFECTS if e in found] if name == "effect" else found
        if len(found) > 1:
            options = "".join(
                f'<option value="{escape(value)}">{escape(EFFECTS.get(value, value))}</option>' for value in found
            )
            fields.append(
                f'<label>{escape(title)}<select name="{name}"><option value="">any</option>{options}</select></label>'
            )
    return (
        '<form id="filters" class="filters" role="search" aria-label="Filter the examples" hidden>'
        + "".join(fields)
        + '<label>Text<input type="search" name="q" placeholder="question, answer, id" autocomplete="off"></label>'
        '<label>Order<select name="sort"><option value="">worst first</option>'
        '<option value="sure">most confident first</option><option value="unsure">least confident first</option>'
        '<option value="id">by id</option></select></label>'
        '<div class="filter-end"><button type="reset">Clear</button>'
        '<output id="shown" aria-live="polite"></output></div>'
        "</form>"
    )


def card_values(case: Case, group: str) -> dict[str, str | float]:
    """What the filters know of a card; JSON in its `data-values`."""
    p = case.first
    worst = case.gravest
    values: dict[str, str | float] = {
        "id": p.id,
        "confidence": round(p.confidence, 4),
        "group": group,
        "family": p.family,
        "content_type": p.content_type,
        "modality": p.modality,
        "effect": case.effect(worst) if worst else "",
    }
    asked = [c for c in _FILTERED_CONDITIONS if c in case.by_region]
    return values | {c: "right" if is_right(case.by_region[c]) else "wrong" for c in asked}


def cards_html(
    cases: Iterable[Case], groups: Mapping[str, str], album: Album
) -> tuple[str, list[dict[str, str | float]]]:
    """The cards in the given order, and the values of each.

    Args:
      groups: id of a question → the group it was chosen for.
    """
    values, cards = [], []
    for case in cases:
        values.append(card_values(case, groups[case.first.id]))
        cards.append(_card(case, values[-1], album))
    return f'<div class="cards" id="cards">{"".join(cards)}</div>', values


def _card(case: Case, values: Mapping[str, str | float], album: Album) -> str:
    p = case.first
    main = [c for c in ALL if c in case.by_region and (c in MAIN or c in ("trust:right", "trust:none"))]
    further = [c for c in ALL if c in case.by_region and c not in main]
    rows = "".join(_answer_row(c, case.by_region[c]) for c in main)
    return (
        f'{card_start(p, values)}{figure(case_boxes(case), p, album)}<div class="card-text">{question_html(p)}'
        f"{_answers_table(rows)}{_effect_html(case)}{_further(case, further, album)}"
        f'<p class="id">{escape(str(values["group"]))} · {escape(p.id)}</p></div></article>'
    )


def card_start(p: Prediction, values: Mapping[str, str | float]) -> str:
    """The opening tag, with what the filters need."""
    return f'<article class="card" data-values="{escape(json.dumps(values, ensure_ascii=False))}">'


def question_html(p: Prediction) -> str:
    """What was asked, and what was to be answered."""
    tags = " · ".join(escape(t) for t in (p.family, p.content_type, p.modality) if t)
    choices = f'<p class="choices">Options: {escape(", ".join(p.choices))}</p>' if p.choices else ""
    asked = f"Find: {p.question}" if p.family == "localise" else p.question
    return (
        f'<p class="tags">{tags}</p><h4>{escape(asked)}</h4>{choices}'
        f'<p class="expected">Reference: <strong>{answer_html(p.answer)}</strong></p>'
    )


def _answers_table(rows: str) -> str:
    return (
        '<table class="answers"><thead><tr><th scope="col">Region</th><th scope="col">Answer</th>'
        f'<th scope="col">Confidence</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _further(case: Case, conditions: Sequence[str], album: Album) -> str:
    """The controls, corruptions and trust variants, folded; the latter with a small picture of the box."""
    if not conditions:
        return ""
    rows = []
    for c in conditions:
        p = case.by_region[c]
        picture = ""
        if c.startswith("trust:") and p.boxes and not isinstance(album.size(p), str):
            kinds = ("right" if box in p.right_boxes else "wrong" for box in p.boxes)
            picture = f'<span class="small-picture">{_picture(list(zip(kinds, p.boxes, strict=True)), p, album)}</span>'
        rows.append(_answer_row(c, p, picture))
    wrong = sum(not is_right(case.by_region[c]) for c in conditions)
    summary = f"{len(conditions)} further conditions, {wrong} answered wrong"
    return f"<details><summary>{summary}</summary>{_answers_table(''.join(rows))}</details>"


def _effect_html(case: Case) -> str:
    """One sentence on what the gravest wrong box did."""
    p = case.gravest
    if p is None or not (effect := case.effect(p)):
        return ""
    plain = case.asked("none")
    kind = condition_name(p.region).lower() if p.region.startswith("trust:") else p.shown_kind.removeprefix("wrong:")
    inside = ", ".join(filter(None, p.box_labels))
    what = f"Wrong box ({kind}{', on ' + inside if inside else ''}):"
    verdict = EFFECTS[effect].partition(":")[2].strip() or effect
    confidence = f" Confidence {_percent(plain)} without a box, {_percent(p)} with it." if plain else ""
    return f'<p class="effect {effect.split()[0]}"><strong>{escape(what)}</strong> {escape(verdict)}.{confidence}</p>'


def _percent(p: Prediction) -> str:
    return f"{round(100 * p.confidence)}&nbsp;%"


def _answer_row(condition: str, p: Prediction, picture: str = "") -> str:
    name = condition if condition in MAIN else condition_name(condition)
    key = f'<i class="key {condition}"></i>' if condition in MAIN else ""
    return (
        f'<tr><th scope="row">{picture}{key}{escape(name)}{_shown_note(p)}</th>'
        f"<td>{verdict_html(p)}</td>{confidence_cell(p)}</tr>"
    )


def verdict_html(p: Prediction) -> str:
    """An answer with its mark, in words too."""
    scores = score(p)
    mark, word = (
        ('<span class="yes">✓</span>', "right") if scores["accuracy"] else ('<span class="no">✗</span>', "wrong")
    )
    overlap = f' <span class="iou">IoU {scores["iou"]:.2f}</span>' if "iou" in scores else ""
    return f'{mark}<span class="hidden">{word}: </span> {answer_html(p.prediction)}{overlap}'


def confidence_cell(p: Prediction) -> str:
    """A bar and a number."""
    percent = round(100 * p.confidence)
    return (
        f'<td class="confidence"><span class="meter" aria-hidden="true"><i style="width:{percent}%"></i></span>'
        f"{percent}&nbsp;%</td>"
    )


def _shown_note(p: Prediction) -> str:
    """What a reader would else assume wrongly: the kind of a wrong region, or that none was shown after all."""
    inside = ", ".join(filter(None, p.box_labels))
    if p.shown_kind.startswith("wrong:"):
        note = p.shown_kind.removeprefix("wrong:") + (f": {inside}" if inside else "")
    elif p.region in ("right", "wrong") and not p.boxes:
        note = "none shown"
    else:
        return ""
    return f"<small>{escape(note)}</small>"


def answer_html(text: str) -> str:
    """An answer as the page shows it."""
    return escape(readable(text)) or "<em>empty</em>"


def readable(text: str) -> str:
    """An answer without its loc tokens: `<loc0001>… liver` becomes `▢ liver`; the box is drawn in the picture."""
    return _LOC_RUN.sub("▢", text)


def case_boxes(case: Case) -> list[tuple[str, Box]]:
    """The boxes of a case's picture: the right ones, the wrong ones of the wrong condition, and those written."""
    p = case.first
    boxes = [("right", box) for box in p.right_boxes]
    worst = case.by_region.get("wrong", case.gravest)
    if worst is not None and worst in case.wrong_boxes:
        boxes += [("wrong", box) for box in worst.boxes if box not in p.right_boxes]
    if p.family == "localise":
        boxes += [("right", box) for box in boxes_from_text(p.answer)[:1]]
        boxes += [("found", box) for box in boxes_from_text(p.prediction)[:1]]
    return boxes


def figure(boxes: Sequence[tuple[str, Box]], p: Prediction, album: Album) -> str:
    """The image with its boxes, or what is wrong with the image."""
    size = album.size(p)
    if isinstance(size, str):
        return f'<figure class="picture missing">{escape(size)}</figure>'
    return f'<figure class="picture">{_picture(boxes, p, album)}</figure>'


def _picture(boxes: Sequence[tuple[str, Box]], p: Prediction, album: Album) -> str:
    size = album.size(p)
    assert not isinstance(size, str)  # callers show what is wrong with the image instead
    width, height = size
    shown = ", ".join(f"{n} {kind} box{'es' * (n > 1)}" for kind, n in _counts(kind for kind, _ in boxes))
    label = f"{p.modality or 'Image'} {p.image_id}" + (f" with {shown}" if shown else "")
    outlines = "".join(_outline(kind, box) for kind, box in boxes)
    overlay = f'<svg viewBox="0 0 1 1" preserveAspectRatio="none" width="{width}" height="{height}">{outlines}</svg>'
    return (
        f'<svg class="image" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        f'<use href="#{album.name(p)}"/>{overlay if boxes else ""}</svg>'
    )


def _counts(kinds: Iterable[str]) -> list[tuple[str, int]]:
    held = list(kinds)
    return [(kind, held.count(kind)) for kind in dict.fromkeys(held)]


def _outline(kind: str, box: Box) -> str:
    y0, x0, y1, x1 = box
    place = f'x="{x0:.4f}" y="{y0:.4f}" width="{max(x1 - x0, 0):.4f}" height="{max(y1 - y0, 0):.4f}"'
    # The dark one beneath keeps the line visible on bright bone and on black air alike.
    return f'<rect class="under" {place}/><rect class="{kind}" {place}/>'
