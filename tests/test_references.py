"""Questions of a file: they have to be right, and what is wrong is named."""

from __future__ import annotations

import json

import pytest

from data_pipelines.core.errors import DataError
from data_pipelines.regions.boxes import box_to_loc_tokens
from rllava_jax.evaluation.references import from_file

BOX = box_to_loc_tokens((0.1, 0.2, 0.5, 0.6))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"answer": "\ud83d"}, r"answer is '\\ud83d'; it holds half a surrogate pair"),
        ({"id": "\ud83d"}, "id is .* half a surrogate pair"),
        ({"accepted": ["\ud83d"]}, "accepted is .* half a surrogate pair"),
        ({"has_region": "no"}, "has_region is 'no'; .*boolean"),
        ({"has_region": 0}, "has_region is 0; .*boolean"),
        (
            {"family": "localise", "answer": "liver"},
            "answer is 'liver', expected four loc tokens",
        ),
    ],
)
def test_a_question_that_cannot_be_scored_is_named_with_its_line(tmp_path, fields, said):
    path = tmp_path / "questions.jsonl"
    lines = [{"id": "a", "answer": "yes"}, {"id": "b", "answer": "yes", **fields}]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match=rf"questions\.jsonl, line 2: {said}"):
        from_file(path)


def test_whole_characters_boxes_and_regions_are_read(tmp_path):
    path = tmp_path / "questions.jsonl"
    lines = [
        {"id": "a", "answer": "😀", "has_region": True},
        {"id": "b", "answer": f"{BOX} liver", "family": "localise", "has_region": None},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, second = from_file(path)
    assert (first.answer, first.has_region) == ("😀", True)
    assert (second.family, second.has_region) == ("localise", False)
