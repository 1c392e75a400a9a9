"""Answers to a few questions, for tests of the report."""

from __future__ import annotations

from PIL import Image

from rllava_jax.evaluation.predictions import Prediction

RIGHT_BOX, WRONG_BOX = (0.1, 0.2, 0.5, 0.6), (0.5, 0.5, 0.9, 0.75)


def asked(number: int, *, family: str = "identify", right=True, none=False, wrong=False, **changes) -> list[Prediction]:
    """One question under all four conditions."""
    found = []
    for condition, correct in (("right", right), ("none", none), ("wrong", wrong), ("blank", none)):
        boxes = {"right": (RIGHT_BOX,), "blank": (RIGHT_BOX,), "wrong": (WRONG_BOX,), "none": ()}[condition]
        kind = {"right": "right", "blank": "right", "wrong": "wrong:shifted", "none": "none"}[condition]
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
            "condition": condition,
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
