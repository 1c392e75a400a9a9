"""The gallery: the card of each example question, its images and its filters, as the macro `gallery` takes them.

Every image is embedded once, however many cards show it: the cards refer to it by name. The filters are plain
JavaScript (`gallery.js`); without it the page shows every card in the order in which it stands, the worst first.
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from data_pipelines.conditions import ALL, CONTROLS, MAIN
from data_pipelines.core.errors import ImageError
from data_pipelines.records import Box
from data_pipelines.regions.boxes import boxes_from_text
from rllava_jax.evaluation.answers import is_right
from rllava_jax.evaluation.metrics import scores_of
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.report.gallery import EFFECTS, Case, ImageOf
from rllava_jax.report.names import condition_name

_THUMBNAIL = 360  # pixels on the longer side
_PLAIN_TRUST = ("trust:right", "trust:none")
_FILTERED_CONDITIONS = (*MAIN, *CONTROLS, *_PLAIN_TRUST)

Values = dict[str, str | float]  # what the filters know of a card
Boxes = Sequence[tuple[str, Box]]  # each with its kind: right, wrong, or found by the model


class Album:
    """The images of a page, each encoded once under a name of its own."""

    def __init__(self, image_of: ImageOf) -> None:
        self._image_of = image_of
        self._held: dict[tuple[str, str], dict[str, Any] | str] = {}

    def picture(self, p: Prediction, boxes: Boxes) -> dict[str, Any] | str:
        """The image of a prediction with boxes on it; where it cannot be had, what is wrong with it."""
        key = p.dataset, p.image_id
        if key not in self._held:
            try:
                self._held[key] = {"name": f"image-{len(self._held)}", **_encoded(self._image_of(p))}
            except ImageError as error:  # one image lost since the run must not cost the whole report
                self._held[key] = str(error)
        held = self._held[key]
        if isinstance(held, str):
            return held
        shown = ", ".join(f"{n} {kind} box{'es' * (n > 1)}" for kind, n in Counter(kind for kind, _ in boxes).items())
        label = f"{p.modality or 'Image'} {p.image_id}" + (f" with {shown}" if shown else "")
        return {**held, "label": label, "boxes": boxes}

    @property
    def images(self) -> list[dict[str, Any]]:
        """What the page defines at its end."""
        return [held for held in self._held.values() if not isinstance(held, str)]


def _encoded(image: Image.Image | bytes) -> dict[str, Any]:
    picture = image if isinstance(image, Image.Image) else Image.open(io.BytesIO(image))
    picture = picture.convert("RGB")
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=88)
    data = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return {"width": picture.width, "height": picture.height, "data": data}


def gallery(cards: Sequence[Mapping[str, Any]], *, groups: str, no_images: str = "") -> dict[str, Any]:
    """Cards and the filters that have something to choose.

    Args:
      groups: what the field "group" is called.
      no_images: why the cards have none.
    """
    titles = {"group": groups, "family": "Question family", "content_type": "Content type", "modality": "Modality"}
    titles |= {"effect": "What a wrong box did"}
    titles |= {c: condition_name(c) for c in _FILTERED_CONDITIONS}
    filters = []
    for name, title in titles.items():
        found = list(dict.fromkeys(str(value) for card in cards if (value := card["filter_values"].get(name))))
        found = [e for e in EFFECTS if e in found] if name == "effect" else found
        if len(found) > 1:
            filters.append({"name": name, "title": title, "options": [(v, EFFECTS.get(v, v)) for v in found]})
    return {"cards": cards, "filters": filters, "no_images": no_images}


def example_card(case: Case, group: str, album: Album) -> dict[str, Any]:
    """A question under every condition: the main ones, and folded the controls, corruptions and trust variants.

    Args:
      group: what the question was chosen for.
    """
    worst = case.gravest
    values: Values = {"effect": case.effect(worst) if worst else ""}
    rows: list[dict[str, Any]] = []
    further: list[dict[str, Any]] = []
    for condition in [c for c in ALL if c in case.by_condition]:
        p, main = case.by_condition[condition], condition in MAIN
        name, key = (condition, condition) if main else (condition_name(condition), "")
        if condition in _FILTERED_CONDITIONS:
            values[condition] = "right" if is_right(p) else "wrong"
        if main or condition in _PLAIN_TRUST:
            rows.append(answer_row(p, name, key=key, note=_shown_note(p)))
            continue
        boxes = [("right" if box in p.right_boxes else "wrong", box) for box in p.boxes]
        picture = album.picture(p, boxes) if condition.startswith("trust:") and boxes else None
        further.append(answer_row(p, name, note=_shown_note(p), picture=picture))
    return card(case, group, album, rows, values=values, effect=_effect(case), further=further)


def card(
    case: Case,
    group: str,
    album: Album | None,
    rows: Sequence[Mapping[str, Any]],
    *,
    values: Values | None = None,
    effect: Mapping[str, Any] | None = None,
    further: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """A card with these rows of answers.

    Args:
      values: further ones for the filters.
      effect: of the gravest wrong box.
      further: rows that are folded.
    """
    p = case.first
    facts = {name: getattr(p, name) for name in ("id", "family", "content_type", "modality")}
    return {
        "p": p,
        "filter_values": {**facts, "confidence": round(p.confidence, 4), "group": group, **(values or {})},
        "picture": album.picture(p, _boxes(case)) if album else None,
        "rows": rows,
        "effect": effect,
        "further": further,
    }


def answer_row(
    p: Prediction, name: str, *, key: str = "", note: str = "", picture: Mapping[str, Any] | str | None = None
) -> dict[str, Any]:
    """One answer of a card: the condition's name, the answer with its mark, its confidence."""
    return {"name": name, "key": key, "note": note, "picture": picture, "p": p, "scores": scores_of(p)}


def _effect(case: Case) -> dict[str, Any] | None:
    """What the gravest wrong box did."""
    p = case.gravest
    if p is None or not (effect := case.effect(p)):
        return None
    of_trust = p.condition.startswith("trust:")
    return {
        "mark": effect.split()[0],
        "kind": condition_name(p.condition).lower() if of_trust else p.shown_kind.removeprefix("wrong:"),
        "inside": ", ".join(filter(None, p.box_labels)),
        "said": EFFECTS[effect].partition(":")[2].strip() or effect,
        "plain": case.under("none"),
        "shown": p,
    }


def _shown_note(p: Prediction) -> str:
    """What a reader would else assume wrongly: the kind of a wrong region, or that none was shown after all."""
    if p.shown_kind.startswith("wrong:"):
        return ": ".join(filter(None, (p.shown_kind.removeprefix("wrong:"), ", ".join(filter(None, p.box_labels)))))
    return "none shown" if p.condition in ("right", "wrong") and not p.boxes else ""


def _boxes(case: Case) -> Boxes:
    """The boxes of a case's picture: the right ones, the wrong ones of the wrong condition, and those written."""
    p = case.first
    boxes = [("right", box) for box in p.right_boxes]
    worst = case.by_condition.get("wrong", case.gravest)
    if worst is not None and worst in case.wrong_boxes:
        boxes += [("wrong", box) for box in worst.boxes if box not in p.right_boxes]
    if p.family == "localise":
        boxes += [("right", box) for box in boxes_from_text(p.answer)[:1]]
        boxes += [("found", box) for box in boxes_from_text(p.prediction)[:1]]
    return boxes
