import json
import logging

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.loading.examples import load_examples
from data_pipelines.records import Region
from data_pipelines.regions.boxes import box_to_pixels, iou
from data_pipelines.regions.named_structures import gives_answer_away, link_regions, named_regions
from data_pipelines.sources import slake
from rllava_jax.config import DataConfig, PolicyConfig


def entry(qid=1, image="xmlab1", **changes):
    record = {
        "img_name": f"{image}/source.jpg",
        "question": "Where is the liver?",
        "answer": "Left",
        "q_lang": "en",
        "location": "Abdomen",
        "modality": "CT",
        "answer_type": "OPEN",
        "content_type": "Position",
        "qid": qid,
    }
    return record | changes


@pytest.fixture
def small_root(tmp_path):
    """SLAKE's layout with one 100x50 image, which shows a liver and two kidneys."""

    def build(entries=None, boxes=None, images=("xmlab1",)):
        (tmp_path / "train.json").write_text(json.dumps(entries if entries is not None else [entry()]))
        default = [{"Liver": [10, 10, 40, 20]}, {"Left Kidney": [60, 30, 10, 10]}, {"Right Kidney": [20, 30, 10, 10]}]
        for name in images:
            folder = tmp_path / "imgs" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (100, 50)).save(folder / "source.jpg")
            (folder / "detection.json").write_text(json.dumps(default if boxes is None else boxes))
        return str(tmp_path)

    return build


# The published files, of which 16 images are not in every copy: the counts below are of the copy without them.


@pytest.mark.parametrize(
    ("split", "questions", "left_out"), [("train", 4919, 144), ("validate", 1053, 7), ("test", 1061, 9)]
)
def test_english_splits_have_the_published_number_of_questions(slake_root, split, questions, left_out, caplog):
    # 143 of the 144 lack their image; the last is the one question without an answer.
    with caplog.at_level(logging.WARNING):
        examples = slake.load(slake_root, split).examples
    assert len(examples) == questions - left_out
    assert "xmlab" in caplog.text
    assert ("slake/en/1622" in caplog.text) == (split == "train")


def test_published_test_split_has_416_closed_questions_of_which_3_lack_their_image(slake_root):
    with open(f"{slake_root}/test.json", encoding="utf-8") as file:
        entries = json.load(file)
    published = [e for e in entries if e["q_lang"] == "en" and e["answer_type"] == "CLOSED"]
    assert len(published) == 416
    loaded = [e for e in slake.load(slake_root, "test").examples if e.answer_type == "closed"]
    assert len(loaded) == 416 - sum(e["img_name"] == "xmlab25/source.jpg" for e in published)


@pytest.mark.parametrize(("split", "boxes", "labels"), [("train", 1095, 44), ("validate", 264, 41), ("test", 231, 40)])
def test_boxes_of_the_english_splits(slake_root, split, boxes, labels):
    regions = [region for image in slake.load(slake_root, split).images for region in image.regions]
    assert len(regions) == boxes
    assert len({region.label for region in regions}) == labels
    assert all(0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1 for y0, x0, y1, x1 in (r.box for r in regions))


def test_masks_lie_in_their_boxes(slake_root):
    # One label may lie on an image in several boxes, so only labels with a single box are compared whole.
    overlaps = []
    for image in slake.load(slake_root, "test").images:
        labels = [region.label for region in image.regions]
        for region in image.regions:
            if region.mask is None:
                continue
            mask = np.asarray(Image.open(region.mask.path)) == region.mask.level
            height, width = mask.shape
            x, y, w, h = (round(v) for v in box_to_pixels(region.box, width=width, height=height))
            assert mask[y : y + h, x : x + w].any()
            if labels.count(region.label) == 1:
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                extent = (rows[0] / height, columns[0] / width, (rows[-1] + 1) / height, (columns[-1] + 1) / width)
                overlaps.append(iou(extent, region.box))
    assert len(overlaps) > 80
    assert np.mean(np.array(overlaps) > 0.7) > 0.9


def test_question_regions_never_tell_a_presence_question_its_answer(slake_root):
    data = DataConfig(source="slake", root=slake_root)
    examples = load_examples(data, "train", seed=0, max_regions=1)
    with_region = [e for e in examples if e.family == "vqa" and e.regions]
    assert len(with_region) > 300
    assert not [e.question for e in with_region if "contain" in e.question]
    assert {e.provenance for e in with_region} == {"question"}


def test_region_family_has_one_identify_question_for_each_of_the_231_test_boxes(slake_root):
    examples = load_examples(DataConfig(source="slake", root=slake_root), "test", seed=0, max_regions=1)
    assert sum(e.family == "identify" for e in examples) == 231
    assert len({e.id for e in examples}) == len(examples)


def test_both_languages_are_read_when_asked_for(slake_root):
    languages = {e.language for e in slake.load(slake_root, "test", languages=("en", "zh")).examples}
    assert languages == {"en", "zh"}


# A small copy of the layout.


def test_pixel_boxes_of_the_file_are_normalised_by_the_image_size(small_root):
    (image,) = slake.load(small_root(), "train").images
    assert image.regions[0] == Region((0.2, 0.1, 0.6, 0.5), "Liver")


def test_mask_level_is_attached_where_label_and_mask_exist(small_root, tmp_path):
    root = small_root()
    (tmp_path / "mask_labels.json").write_text('{"70": "Liver"}')
    Image.new("L", (100, 50)).save(tmp_path / "imgs/xmlab1/mask.png")
    (image,) = slake.load(root, "train").images
    assert [region.mask and region.mask.level for region in image.regions] == [70, None, None]


@pytest.mark.parametrize("release", ["paper", "hub"])
def test_the_files_of_both_releases_are_read_alike(small_root, tmp_path, release):
    root = small_root()
    (tmp_path / "train.json").rename(tmp_path / ("validate.json" if release == "paper" else "validation.json"))
    Image.new("L", (100, 50)).save(tmp_path / "imgs/xmlab1/mask.png")
    if release == "hub":
        (tmp_path / "mask.txt").write_text("70:Liver\n155: Right Kidney\r\n\n")
    else:
        (tmp_path / "mask_labels.json").write_text('{"70": "Liver", "155": "Right Kidney"}')
    split = slake.load(root, "validate")
    assert [example.id for example in split.examples] == ["slake/en/1"]
    assert [region.mask and region.mask.level for region in split.images[0].regions] == [70, None, 155]
    assert {region.mask.path for region in split.images[0].regions if region.mask} == {f"{root}/imgs/xmlab1/mask.png"}


@pytest.mark.parametrize("line", ["Liver", "seventy:Liver", "70:", "300:Liver", "-1:Liver", "70.5:Liver"])
def test_a_malformed_table_of_masks_is_named(small_root, tmp_path, line):
    root = small_root()
    (tmp_path / "mask.txt").write_text(f"10:Brain\n{line}\n")
    with refused(DataError, "file.malformed", "mask.txt", "LEVEL:LABEL"):
        slake.load(root, "train")


def test_missing_images_are_left_out_counted_and_named(small_root, caplog):
    root = small_root([entry(1), entry(2, image="xmlab25"), entry(3, image="xmlab25")])
    with caplog.at_level(logging.WARNING):
        examples = slake.load(root, "train").examples
    assert [e.id for e in examples] == ["slake/en/1"]
    assert "slake train: left out 2 (image not in the folder): xmlab25" in caplog.text


def test_answers_that_are_numbers_become_text_and_answer_types_lose_their_blanks(small_root):
    (example,) = slake.load(small_root([entry(answer=4, answer_type="CLOSED ")]), "train").examples
    assert (example.answer, example.answer_type) == ("4", "closed")


def test_corrupt_image_keeps_its_questions_for_the_decoder_to_report(small_root, tmp_path):
    root = small_root()
    (tmp_path / "imgs/xmlab1/source.jpg").write_bytes(b"not an image")
    split = slake.load(root, "train")
    assert len(split.examples) == 1
    assert split.images[0].regions == ()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"question": "  "}, ("data.missing-field", "0", "question")),
        ({"answer_type": "MAYBE"}, ("data.invalid-value", "0", "answer_type", "maybe")),
        ({"modality": None}, ("data.missing-field", "0", "modality")),
    ],
)
def test_malformed_entry_is_named_by_file_entry_and_field(small_root, changes, complaint):
    root = small_root([entry(**changes)])
    with refused(DataError, *complaint) as caught:
        slake.load(root, "train")
    assert str(caught.value).startswith(f"{root}/train.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("boxes", "complaint"),
    [
        ([{"Liver": [90, 10, 40, -2]}], ("data.invalid-region", "entry 0", "'Liver'", "90,10,40,-2")),
        ([{"Liver": [90, 10, 0, 20]}], ("data.invalid-region", "entry 0", "90,10,0,20")),
        ([{"Liver": [90, 10, 3]}], ("data.invalid-value", "entry 0", "[90, 10, 3]")),
        ([{"Liver": ["a", 1, 2, 3]}], ("data.invalid-value", "entry 0", "'a'")),
        ({"Liver": [1, 1, 2, 3]}, ("file.malformed", "dict")),
    ],
)
def test_malformed_box_is_named_by_file_and_entry(small_root, boxes, complaint):
    with refused(DataError, *complaint) as caught:
        slake.load(small_root(boxes=boxes), "train")
    assert "imgs/xmlab1/detection.json" in str(caught.value)


def test_truncated_json_is_one_line_naming_the_file(small_root, tmp_path):
    root = small_root()
    (tmp_path / "train.json").write_text('[{"img_name": "xml')
    with refused(DataError, "file.malformed", "train.json", "JSON") as caught:
        slake.load(root, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("root", "split", "complaint"),
    [
        ("", "train", ("config.missing-field", "data.root")),
        ("/nowhere", "train", ("file.missing", "/nowhere")),
        (None, "dev", ("data.unknown-name", "dev")),
    ],
)
def test_wrong_root_or_split_says_what_to_set(small_root, root, split, complaint):
    with refused(DataError, *complaint):
        slake.load(small_root() if root is None else root, split)


# Which box belongs to a question.

LIVER = Region((0.1, 0.1, 0.5, 0.5), "Liver")
CANCER = Region((0.2, 0.2, 0.3, 0.3), "Liver Cancer")
LEFT = Region((0.5, 0.7, 0.7, 0.9), "Left Kidney")
RIGHT = Region((0.5, 0.1, 0.7, 0.3), "Right Kidney")
ALL = (LIVER, CANCER, LEFT, RIGHT)


@pytest.mark.parametrize(
    ("question", "named"),
    [
        ("Where is the LIVER?", (LIVER,)),
        ("Where is the liver cancer?", (CANCER,)),
        ("Is the liver cancer in the liver?", (LIVER, CANCER)),
        ("Is the left kidney normal?", (LEFT,)),
        ("Is the kidney normal?", (LEFT, RIGHT)),
        ("Are the kidneys normal?", (LEFT, RIGHT)),
        ("Does he deliver?", ()),
        ("What is on the left?", ()),
    ],
)
def test_a_label_is_named_by_whole_words_longest_first(question, named):
    assert named_regions(question, ALL) == named


@pytest.mark.parametrize(
    ("question", "reveals"),
    [
        ("Does the picture contain liver?", True),
        ("Is there a liver in the image?", True),
        ("Can liver be observed in this picture?", True),
        ("How many kidneys are there?", True),
        ("Which is bigger, liver or spleen?", True),
        ("Which is bigger, liver or kidney?", False),
        ("Can the mass be observed on the lower right lung in this picture?", False),
        ("Is the liver healthy?", False),
    ],
)
def test_questions_that_a_box_would_answer_are_recognised(question, reveals):
    assert gives_answer_away(question, ALL, {"Liver", "Left Kidney", "Right Kidney", "Spleen"}) is reveals


def link(root, rule, max_regions=1):
    split = slake.load(root, "train")
    return link_regions(split.examples, split.images, rule=rule, max_regions=max_regions)


def test_question_that_names_more_boxes_than_slots_gets_none_and_is_counted(small_root):
    root = small_root([entry(question="Are the kidneys healthy?")])
    (example,), counts = link(root, "question")
    assert (example.regions, example.provenance, counts.too_many) == ((), "", 1)
    assert len(example.distractors) == 3
    (example,), counts = link(root, "question", max_regions=2)
    assert [r.label for r in example.regions] == ["Left Kidney", "Right Kidney"]
    assert ([r.label for r in example.distractors], counts.too_many) == (["Liver"], 0)


def test_answer_rule_says_that_the_answer_chose_the_box(small_root):
    root = small_root([entry(question="What is the largest organ?", answer="Liver"), entry(2)])
    (by_answer, by_question), _ = link(root, "answer")
    assert (by_answer.provenance, by_question.provenance) == ("answer", "question")
    (no_region, _), _ = link(root, "question")
    assert no_region.regions == ()


def test_none_rule_leaves_ordinary_questions_without_regions(small_root):
    data = DataConfig(source="slake", root=small_root(), policy=PolicyConfig(question_regions="none"))
    ordinary = [e for e in load_examples(data, "train", seed=0, max_regions=1) if e.family == "vqa"]
    assert [e.regions for e in ordinary] == [()]
