"""What a reader calls each condition of `data_pipelines/conditions.py`."""

from __future__ import annotations

_NAMES = {
    "right": "Right region",
    "none": "No region",
    "wrong": "Wrong region",
    "blank": "Blank image",
    "noise": "Noise for an image",
    "shuffled": "Another question’s image",
    "question_only": "Question only",
    "trust:right": "Right box",
    "trust:none": "No box",
    "trust:another": "Another structure’s box",
    "trust:mirrored": "Mirrored to the other side",
    "trust:random": "Random place",
    "trust:whole": "Whole image",
    "trust:tiny": "Tiny box",
    "trust:two": "Two boxes, one right",
    "trust:contradicted": "Text contradicts the box",
}


def condition_name(condition: str) -> str:
    """ "right" is "Right region", "corrupted:blur:3" is "Blur, level 3"; a name that is not known stays as it is."""
    if condition in _NAMES:
        return _NAMES[condition]
    match condition.split(":"):
        case ["corrupted", kind, level]:
            kind = "JPEG" if kind == "jpeg" else kind.capitalize()
            return f"{kind}, level {level}"
        case ["trust", "shifted", overlap]:
            return f"Shifted to IoU {overlap}"
        case ["trust", "scaled", factor]:
            return f"Scaled {factor} times"
        case ["wrong", kind]:
            return f"Wrong: {kind}"
    return condition
