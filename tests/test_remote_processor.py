"""The exported processor: the project's arrays for every region encoder, and one clear line for every mistake."""

import ast
import io
import sys

import numpy as np
import pytest
from other_transformers import run_with_transformers_457
from PIL import Image
from remote_code_folders import Question, export, mask, picture, project_arrays, questions, tiny_config
from transformers import AutoProcessor

from data_pipelines.core.errors import DataError
from data_pipelines.images import reading
from data_pipelines.regions import boxes
from rllava_jax.interop.remote_files import remote_code_files

SETTINGS = [
    {"encoders": ("crop",)},
    {"encoders": ("align",), "outlines": True},
    {"encoders": ("crop", "align"), "outlines": True, "crop_size": 56},
    {"encoders": ("overlay",), "outlines": True},
    {"encoders": ("overlay", "loc")},
    {"encoders": ("loc", "crop")},
]
IMAGE = picture(60, 80)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exported folders by their settings, made once."""
    made = {}

    def make(**settings):
        key = str(settings)
        if key not in made:
            folder = tmp_path_factory.mktemp("processor") / f"model{len(made)}"
            made[key] = export(tiny_config(**settings), folder)
        return made[key]

    return make


@pytest.fixture(scope="module")
def processor(exported):
    """With crops and two slots."""
    return load(exported(**SETTINGS[0]))


def load(model):
    return AutoProcessor.from_pretrained(model.folder, trust_remote_code=True)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "+".join(s["encoders"]))
@pytest.mark.parametrize("masks", [False, True])
def test_arrays_are_the_projects_bit_for_bit(exported, settings, masks, tmp_path):
    model = exported(**settings)
    asked = questions(masks=masks)
    arrays, inputs = project_arrays(model, asked, tmp_path), ask(load(model), asked)
    per_region = 4 * sum(name in settings["encoders"] for name in ("crop", "align"))
    if per_region == 0:
        assert not [name for name in inputs if name.startswith("region")]
    for name, values in inputs.items():
        if name in ("pixel_values", "region_pixels"):
            source = arrays["image" if name == "pixel_values" else name].astype(np.float32)
            np.testing.assert_array_equal(values, np.moveaxis(source / np.float32(127.5) - 1, -1, -3), err_msg=name)
        elif name.startswith("region"):
            np.testing.assert_array_equal(values, arrays[name], err_msg=name)
    for row, question in enumerate(asked):
        text = arrays["text"][row][arrays["mask_input"][row] == 1].tolist()
        image = [model.tokenizer.vocab_size] * (16 + per_region * len(question.regions))
        assert inputs["input_ids"][row][inputs["attention_mask"][row] == 1].tolist() == image + text


def test_task_and_language_choose_the_prompt_and_template_false_takes_it_as_it_is(exported, tmp_path):
    model = exported(**SETTINGS[0])
    processor = load(model)
    assert processor.prefix("liver", task="detect") == "detect liver"
    assert processor.prefix(" where? ", language="zh") == "answer zh where?"
    detect = project_arrays(model, [Question(IMAGE, "liver", (), "detect")], tmp_path)
    written = processor(images=IMAGE, text="detect liver", template=False)
    ids = detect["text"][0][detect["mask_input"][0] == 1].tolist()
    assert written["input_ids"][0][16:].tolist() == ids
    assert processor(images=IMAGE, text="liver", task="detect")["input_ids"].tolist() == written["input_ids"].tolist()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "I;16"])
def test_images_of_every_mode_become_the_projects_pixels(processor, mode):
    if mode == "I;16":
        image = Image.fromarray(np.linspace(1000, 3000, 60 * 80, dtype=np.uint16).reshape(60, 80))
    else:
        image = Image.fromarray(IMAGE).convert(mode)
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    expected = processor(images=reading.decode(encoded.getvalue(), "x"), text="what")["pixel_values"]
    np.testing.assert_array_equal(processor(images=image, text="what")["pixel_values"], expected)
    if mode in ("RGB", "L", "I;16"):
        given = processor(images=np.asarray(image), text="what")["pixel_values"]
        np.testing.assert_array_equal(given, expected)


def test_boxes_and_their_errors_are_the_projects(processor):
    """The remote code has its own copy of three functions."""
    marking = sys.modules[processor._marked.__globals__["mark"].__module__]
    rng = np.random.default_rng(0)
    rectangles = [*rng.uniform(-2, 70, (300, 4)).round(1), [5, 5, 0, 3], [5, 5, float("nan"), 3], [-0.9, 0, 0.5, 9]]
    kinds = set()
    for rectangle in rectangles:
        given = {"width": 80, "height": 60, "where": "here"}
        ours = result(boxes.box_from_pixels, *map(float, rectangle), **given)
        assert result(marking.box_from_pixels, *map(float, rectangle), **given) == ours
        kinds.add(type(ours))
        if isinstance(ours, tuple):
            assert marking.box_to_loc_tokens(ours) == boxes.box_to_loc_tokens(ours)
    assert kinds == {str, tuple}
    for shape in (mask(60, 80), np.eye(60, 80, 79, dtype=bool), np.zeros((60, 80), bool)):
        assert result(marking.box_from_mask, shape, where="m") == result(boxes.box_from_mask, shape, where="m")


def test_boxes_may_come_as_an_array(processor):
    listed = processor(images=IMAGE, text="what", regions=[BOX, (1, 2, 3, 4)])
    array = processor(images=[IMAGE], text=["what"], regions=[np.array([BOX, (1, 2, 3, 4)])])
    np.testing.assert_array_equal(array["regions"], listed["regions"])


BOX = (5, 5, 20, 20)
MISTAKES = [
    ({"regions": [BOX, BOX, BOX]}, "regions: 3 regions, but the model has regions.max_regions = 2"),
    ({"regions": [(70, 5, 20, 20)]}, r"regions\[0\]: box x,y,w,h = 70,5,20,20 leaves the image of 80x60 pixels by 10"),
    ({"regions": [BOX, (1, 2, 3)]}, r"regions\[1\]: neither a box nor a mask"),
    ({"regions": BOX}, "regions: a single region; give a list"),
    ({"regions": np.ones((60, 80), bool)}, "regions: a single region; give a list"),
    ({"regions": [np.ones((80, 60), bool)]}, r"regions\[0\]: mask of 60 x 80 pixels for an image of 80 x 60"),
    ({"regions": [np.zeros((60, 80), bool)]}, r"regions\[0\]: mask is empty"),
    ({"text": "  "}, "text: question is empty"),
    ({"text": "<image>what"}, "text: holds '<image>'; leave it out"),
    ({"text": ["a", "b"]}, "text: 2 for one image"),
    ({"text": None}, "images and text: give both"),
    ({"task": "segment"}, "task: 'segment' is none of the model's; use one of 'answer', 'detect'"),
    ({"images": "scan.png"}, "images: str; give a PIL image or a NumPy array"),
    ({"images": np.zeros((4, 5, 3))}, r"images: array of float64 \[4, 5, 3\]"),
    ({"images": np.zeros((4, 5), np.int64)}, r"images: array of int64 \[4, 5\]"),
    ({"images": [IMAGE, IMAGE], "text": ["a"]}, "text: 1 for a list of 2 images"),
    ({"images": [IMAGE, IMAGE], "text": "a"}, "text: a single string for a list of 2 images"),
    ({"images": [IMAGE, IMAGE], "text": ["a", ""]}, r"text\[1\]: question is empty"),
    ({"images": [IMAGE] * 2, "text": ["a", "b"], "regions": [BOX]}, "regions: 1 for a list of 2 images"),
    (
        {"images": [IMAGE] * 2, "text": ["a", "b"], "regions": [None, [(0, 0, 0, 1)]]},
        r"regions\[1\]\[0\]: box x,y,w,h = 0,0,0,1 has no area",
    ),
]


@pytest.mark.parametrize(("given", "message"), MISTAKES)
def test_a_mistake_is_named_in_one_line(processor, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        processor(**{"images": IMAGE, "text": "what", **given})
    assert "\n" not in str(caught.value)


PLAIN = """
import sys
import numpy as np
from transformers import AutoProcessor
folder, image, out = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder)
inputs = processor(images=np.load(image), text="<image>answer en what", return_tensors="np")
np.savez(out, kind=type(processor).__name__, pixels=inputs["pixel_values"][0], ids=inputs["input_ids"][0])
"""


@pytest.mark.parametrize("version", ["5.23", "4.57"])
def test_plain_folder_gives_paligemmas_processor_with_the_trained_resize(exported, version, tmp_path, monkeypatch):
    model = exported(encoders=())
    assert not list(model.folder.glob("*.py"))
    image = picture(120, 90)
    np.save(tmp_path / "image.npy", image)
    arguments = (str(model.folder), str(tmp_path / "image.npy"), str(tmp_path / "out.npz"))
    if version == "5.23":
        monkeypatch.setattr(sys, "argv", ["", *arguments])
        exec(PLAIN, {})
    else:
        run_with_transformers_457(PLAIN, *arguments)
    found = np.load(tmp_path / "out.npz")
    assert found["kind"] == "PaliGemmaProcessor"
    assert found["ids"][:17].tolist() == [model.tokenizer.vocab_size] * 16 + [model.tokenizer.bos_id]
    assert found["ids"][-1] == model.tokenizer.newline_id
    # Pillow rounds after each axis where the reference truncates once: a level, seldom two. Bicubic is off by 25.
    levels = (found["pixels"] + 1) * 127.5 - np.moveaxis(reading.resize(image, 56).astype(float), -1, 0)
    assert np.abs(levels).max() < 2.01


def test_remote_files_stand_alone():
    """Standard library, NumPy, Pillow, torch, transformers, and one another.

    Each file that a class comes from imports every file that it needs: from a folder, transformers 4.57 copies no more.
    """
    files = remote_code_files()
    siblings, needed = {}, {}
    for name, content in files.items():
        absolute, siblings[name] = set(), set()
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.Import):
                absolute |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                (siblings[name] if node.level else absolute).add(node.module.split(".")[0])
        assert absolute <= {*sys.stdlib_module_names, "numpy", "PIL", "torch", "transformers"}, name
    for name, imported in siblings.items():
        needed[name] = imported.union(*(siblings[f"{module}.py"] for module in imported))
    for name in ("configuration_rllava.py", "modeling_rllava.py", "processing_rllava.py"):
        assert siblings[name] == needed[name], name


def ask(processor, asked):
    pictures, texts, regions = ([example[part] for example in asked] for part in range(3))
    return processor(images=pictures, text=texts, regions=regions)


def result(function, *given, **named):
    try:
        return function(*given, **named)
    except (DataError, ValueError) as error:
        return str(error)
