import json

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.records import Turn
from data_pipelines.sources.llava_med import ALIGNMENT, INSTRUCT


def talk(*texts):
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def entry(name="30348203_F1", texts=("<image>\nWhat is shown?", "A liver."), **changes):
    domain = {"chest_xray": False, "mri": False, "histology": False, "gross": False, "ct_scan": True}
    return {"id": name, "image": f"{name}.jpg", "domain": domain, "conversations": talk(*texts)} | changes


@pytest.fixture
def small_root(tmp_path):
    """The authors' `data` folder with one image."""

    def build(entries, file="instruct/llava_med_instruct_10k.json"):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / "images" / "30348203_F1.jpg")
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(json.dumps(entries))
        return str(tmp_path)

    return build


def test_a_conversation_is_one_example_whose_earlier_turns_come_first(small_root):
    root = small_root(
        [entry(texts=("What is\nshown?\n<image>", "A liver.", "Is it normal?", "No.", "Why?", "A cyst."))]
    )
    (example,) = INSTRUCT.load(root, "10k").examples
    assert example.turns == (Turn("What is shown?", "A liver."), Turn("Is it normal?", "No."))
    assert (example.question, example.answer) == ("Why?", "A cyst.")
    assert (example.id, example.family, example.modality) == ("llava_med_instruct/10k/30348203_F1", "vqa", "CT")


@pytest.mark.parametrize("question", ["<image>\nDescribe it.", "Describe it.\n<image>"])
def test_an_alignment_caption_answers_its_instruction(small_root, question):
    root = small_root([entry(texts=(question, "Fig. 1: CT."))], "alignment/llava_med_alignment_500k.json")
    split = ALIGNMENT.load(root, "train")
    (example,) = split.examples
    assert (example.question, example.answer, example.turns) == ("Describe it.", "Fig. 1: CT.", ())
    assert (example.family, example.task) == ("caption", "answer")
    assert [image.image_id for image in split.images] == ["30348203_F1.jpg"]


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        ([], "no conversation"),
        (None, "no conversation"),
        (talk("Q?"), "a question without an answer"),
        (talk("Q?", "A.", "Q?"), "a question without an answer"),
        (talk("<image>\n", "A."), "an empty question or answer"),
        (talk("Q?", None), "an empty question or answer"),
        (talk("Q?", "A.")[::-1], "human and gpt do not alternate"),
        (talk("Q?", "A.")[:1] * 2, "human and gpt do not alternate"),
        (["Q?", "A."], "human and gpt do not alternate"),
    ],
)
def test_a_malformed_conversation_is_left_out_and_named(small_root, conversation, reason):
    split = INSTRUCT.load(small_root([entry(), entry("2_F2", conversations=conversation)]), "10k")
    assert len(split.examples) == 1
    assert split.left_out == {reason: ["llava_med_instruct/10k/2_F2"]}


def test_the_misspelt_field_of_some_copies_is_read(small_root):
    misspelt = {("conversatons" if key == "conversations" else key): value for key, value in entry().items()}
    assert len(INSTRUCT.load(small_root([misspelt]), "10k").examples) == 1


def test_missing_images_are_left_out_and_named(small_root):
    split = INSTRUCT.load(small_root([entry(), entry("2_F2")]), "10k")
    assert split.left_out == {"image not in the folder": ["2_F2.jpg"]}


def test_conversations_of_one_identifier_are_numbered(small_root):
    examples = INSTRUCT.load(small_root([entry()] * 3), "10k").examples
    first = "llava_med_instruct/10k/30348203_F1"
    assert [e.id for e in examples] == [first, f"{first}/2", f"{first}/3"]


def test_a_figure_of_no_or_several_domains_has_no_modality(small_root):
    for domain in ({"mri": True, "ct_scan": True}, {}, None):
        (example,) = INSTRUCT.load(small_root([entry(domain=domain)]), "10k").examples
        assert example.modality == ""


def test_the_files_are_found_beside_images_too(small_root):
    assert len(INSTRUCT.load(small_root([entry()], "llava_med_instruct_60k.json"), "60k").examples) == 1


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ({}, ("file.malformed",)),
        ([entry(id=None)], ("data.missing-field", "0", "id")),
        ([entry(image="../secret.jpg")], ("data.invalid-value", "0", "image", "../secret.jpg")),
    ],
)
def test_a_malformed_file_is_named(small_root, entries, complaint):
    with refused(DataError, *complaint) as caught:
        INSTRUCT.load(small_root(entries), "10k")
    assert "llava_med_instruct_10k.json: " in str(caught.value)


def test_unknown_split_and_missing_file_are_errors(small_root):
    root = small_root([entry()])
    for split, complaint in (
        ("train", ("data.unknown-name", "10k", "60k", "60k_inline_mention")),
        ("60k", ("file.missing",)),
    ):
        with refused(DataError, *complaint):
            INSTRUCT.load(root, split)
