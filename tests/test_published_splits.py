"""Published test splits: whole, with the numbers that their evaluators give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scored_files import Scores, write

from data_pipelines.sources import path_vqa, slake, vqa_rad
from rllava_jax.evaluate import main
from rllava_jax.evaluation.protocols.registry import PROTOCOLS
from rllava_jax.evaluation.references import from_data


def answers_to_vqa_rad(root: str, path: Path, answer) -> Path:
    entries = json.loads((Path(root) / "VQA_RAD Dataset Public.json").read_text())
    asked = [e for e in entries if e["phrase_type"] in ("test_freeform", "test_para")]
    return write(path, [{"id": f"vqa_rad/{e['qid']}", "answer": answer(e)} for e in asked])


@pytest.mark.parametrize(
    ("answer", "closed", "dropped", "strict"),
    [("yes no", (251 / 272, 272), (1, 251), 0), (None, (254 / 272, 272), (254 / 272, 272), 1)],
    ids=["yes no", "perfect"],
)
def test_published_inflation_is_reproduced_on_vqa_rad(vqa_rad_root, tmp_path, answer, closed, dropped, strict):
    """92.28 for "yes no" to everything, 93.38 for a perfect model; strict gives 0 and 100."""
    path = answers_to_vqa_rad(vqa_rad_root, tmp_path / "a.jsonl", lambda e: answer or e["answer"])
    command = ["--predictions", str(path), "--root", vqa_rad_root, "--bootstrap", "0", "--out", str(tmp_path / "out")]
    assert main([*command, "--protocol", "llava_med_legacy", "--data", "vqa_rad"]) == 0
    scores = Scores(tmp_path / "out")
    assert scores["answer_type=closed/legacy_closed"] == closed
    assert scores["answer_type=closed/legacy_closed_dropped"] == dropped
    assert main([*command, "--protocol", "vqa_rad"]) == 0
    scores = Scores(tmp_path / "out")
    assert scores["answer_type=closed/accuracy"] == (strict, 272)
    assert scores["answer_type=open/exact_match"] == (strict, 179)


def test_the_english_test_questions_of_slake_are_those_that_its_protocol_expects(slake_root, tmp_path):
    entries = json.loads((Path(slake_root) / "test.json").read_text(encoding="utf-8"))
    root = tmp_path / "slake"
    root.mkdir()
    # Without one image: scoring does not look at them, and copies often lack some.
    (root / "test.json").write_bytes((Path(slake_root) / "test.json").read_bytes())
    asked = [{"id": f"slake/en/{e['qid']}", "answer": e["answer"]} for e in entries if e["q_lang"] == "en"]
    command = ["--predictions", str(write(tmp_path / "a.jsonl", asked)), "--root", str(root), "--bootstrap", "0"]
    assert main([*command, "--protocol", "slake", "--out", str(tmp_path / "out")]) == 0
    scores = Scores(tmp_path / "out")
    assert scores["all/accuracy"] == (1, 1061)
    assert scores["answer_type=closed/accuracy"] == (1, 416)
    assert scores["answer_type=yes_no/accuracy"] == (1, 416 - 61)
    assert scores["answer_type=open/exact_match"] == (1, 645)


def test_the_card_of_slake_counts_both_languages():
    assert PROTOCOLS.get("slake", setting="--protocol").expected + 1033 == slake.CARD.splits["test"].examples
    assert PROTOCOLS.get("vqa_rad", setting="--protocol").expected == vqa_rad.CARD.splits["test"].examples == 451
    assert PROTOCOLS.get("pathvqa", setting="--protocol").expected == path_vqa.CARD.splits["test"].examples == 6761


def test_no_question_of_vqa_rad_is_lost_with_its_image(vqa_rad_root, tmp_path, caplog):
    name = "VQA_RAD Dataset Public.json"
    (tmp_path / name).write_bytes((Path(vqa_rad_root) / name).read_bytes())
    found, whole = (
        from_data("vqa_rad", str(root), "test", languages=("en",), families=("vqa",), seed=0)
        for root in (tmp_path, vqa_rad_root)
    )
    assert found == whole
    assert "203 images are not in the folder; their questions are kept" in caplog.text


def test_450_of_451_are_refused_unless_allowed(vqa_rad_root, tmp_path, capsys):
    path = answers_to_vqa_rad(vqa_rad_root, tmp_path / "a.jsonl", lambda e: e["answer"])
    path.write_text(path.read_text().split("\n", 1)[1])
    command = ["--predictions", str(path), "--protocol", "vqa_rad", "--root", vqa_rad_root, "--bootstrap", "0"]
    assert main(command) == 2
    err = capsys.readouterr().err
    assert f"error: {path} answers 450 of the 451 questions of --protocol vqa_rad" in err
    assert "--allow-missing 1" in err
    assert main([*command, "--allow-missing", "1", "--out", str(tmp_path / "out")]) == 0
    assert Scores(tmp_path / "out")["all/accuracy"] == (450 / 451, 451)


def test_a_copy_of_a_data_set_that_lacks_a_question_is_refused(vqa_rad_root, tmp_path, capsys):
    entries = json.loads((Path(vqa_rad_root) / "VQA_RAD Dataset Public.json").read_text())
    lacking = next(e for e in entries if e["phrase_type"] == "test_para")
    (tmp_path / "VQA_RAD Dataset Public.json").write_text(json.dumps([e for e in entries if e is not lacking]))
    (tmp_path / "images").symlink_to(Path(vqa_rad_root) / "images")
    path = answers_to_vqa_rad(str(tmp_path), tmp_path / "a.jsonl", lambda e: e["answer"])
    assert main(["--predictions", str(path), "--protocol", "vqa_rad", "--root", str(tmp_path)]) == 2
    assert "the copy of the data set has 450 of the 451 questions" in capsys.readouterr().err
