"""What a mask picture marks: stated, or found by a rule that refuses what is ambiguous, in every form."""

import json

import numpy as np
import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError, ImageError
from data_pipelines.images.reading import decode_mask
from data_pipelines.loading.examples import load_source
from data_pipelines.prepare import main
from data_pipelines.records import MaskFile
from data_pipelines.settings import DataConfig
from data_pipelines.sources import jsonl

Y, X = np.mgrid[:60, :80]
DISC = (Y - 30) ** 2 + (X - 35) ** 2 < 18**2
WHITE = np.where(DISC, 255, 0).astype(np.uint8)
LABELS = np.where(DISC, np.where(Y < 30, 1, 2), 0).astype(np.uint8)


def palette(colours):
    image = Image.fromarray(LABELS, "P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def transparent(colours, opaque=DISC):
    grey = np.broadcast_to(colours, DISC.shape)
    return Image.fromarray(np.stack([grey, grey, grey, np.where(opaque, 255, 0)], 2).astype(np.uint8))


RED_GREEN = [(255, 255, 255), (255, 0, 0), (0, 255, 0)]
FOUND = {
    "white.png": Image.fromarray(WHITE),
    "one_bit.png": Image.fromarray(DISC),
    "labels.png": Image.fromarray(LABELS),
    "dim.png": Image.fromarray((DISC * 1).astype(np.uint8)),
    "sixteen.png": Image.fromarray(WHITE.astype(np.uint16) * 257),
    "rim.jpg": Image.fromarray(WHITE),
    "colour_rim.jpg": Image.fromarray(np.stack([WHITE, WHITE // 8, WHITE // 8], 2)),
    "palette.png": palette(RED_GREEN),
    "dark_palette.png": palette([(0, 0, 0), (0, 0, 1), (1, 0, 0)]),
    "alpha_on_white.png": transparent(255),
    "alpha_on_black.png": transparent(0),
    "alpha_and_colour.png": transparent(WHITE),
    "opaque.png": transparent(WHITE, np.ones_like(DISC)),
    "colour.png": Image.fromarray(np.stack([WHITE * 0, WHITE * 0, DISC * 1], 2).astype(np.uint8)),
}


def saved(image, path):
    image.save(path, **({"quality": 75} if path.suffix == ".jpg" else {}))
    return str(path)


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_what_is_marked_is_found_whatever_the_form(tmp_path, name):
    inside = decode_mask(MaskFile(saved(FOUND[name], tmp_path / name)), "x")
    wrong = inside != DISC
    assert wrong.sum() <= (0.02 * DISC.sum() if name.endswith(".jpg") else 0)


INVERTED = Image.fromarray(np.where(np.zeros_like(DISC), 0, np.where(DISC, 255, 128)).astype(np.uint8))
SOFT = Image.fromarray(np.clip(np.hypot(Y - 30, X - 35) * 4, 0, 255).astype(np.uint8))
AMBIGUOUS = {
    "no_black.png": INVERTED,
    "white.jpg": Image.fromarray(np.full_like(WHITE, 255)),
    "labels.jpg": Image.fromarray(LABELS * 100),
    "soft.png": SOFT,
    "black_is_two.png": palette([(255, 255, 255), (255, 0, 0), (0, 0, 0)]),
    "two_things.png": transparent(np.where(X < 40, 255, 0)),
    "noise_or_labels.png": Image.fromarray(np.where(DISC, 255, np.where(X < 5, 1, 0)).astype(np.uint8)),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_what_is_ambiguous_is_refused_with_the_fields_that_settle_it(tmp_path, name):
    path = saved(AMBIGUOUS[name], tmp_path / name)
    with refused(ImageError, "image.unreadable", name, "mask_level", "mask_index", "mask_threshold", "mask_alpha"):
        decode_mask(MaskFile(path), "x")


def source(tmp_path, name, image, **said):
    root = tmp_path / "in"
    root.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)).save(root / "a.png")
    saved(image, root / name)
    region = {"box": [10, 5, 55, 50], "label": "Mass", "mask": name, **said}
    row = {"id": "1", "image": "a.png", "question": "q", "answer": "a", "regions": [region]}
    (root / "train.jsonl").write_text(json.dumps(row) + "\n")
    return str(root)


def mask_of(config):
    return decode_mask(load_source(config, "train").images[0].regions[0].mask, "x")


STATED = [
    ("labels.png", Image.fromarray(LABELS), {"mask_level": 2}, LABELS == 2),
    ("palette.png", "palette", {"mask_index": 1}, LABELS == 1),
    ("palette.png", "palette", {"mask_index": 0}, ~DISC),
    ("rim.jpg", Image.fromarray(WHITE), {"mask_threshold": 128}, None),
    ("no_black.png", INVERTED, {"mask_threshold": 200}, DISC),
    ("two_things.png", AMBIGUOUS["two_things.png"], {"mask_alpha": True}, DISC),
    ("rim.jpg", Image.fromarray(WHITE), {}, None),
    ("alpha.png", transparent(255), {}, DISC),
]


@pytest.mark.parametrize(("name", "image", "said", "inside"), STATED)
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_what_is_stated_is_marked_as_published_and_as_prepared(tmp_path, name, image, said, inside):
    root = source(tmp_path, name, palette(RED_GREEN) if image == "palette" else image, **said)
    found = mask_of(DataConfig(source="jsonl", root=root))
    assert (found != (DISC if inside is None else inside)).sum() <= (20 if inside is None else 0)
    assert main(["jsonl", "--source", root, "--out", str(tmp_path / "out"), "--workers=1"]) == 0
    assert (mask_of(DataConfig(source="prepared", root=str(tmp_path / "out"))) == found).all()


def test_prepare_says_which_mask_is_ambiguous(tmp_path, capsys):
    root = source(tmp_path, "no_black.png", INVERTED)
    assert main(["jsonl", "--source", root, "--out", str(tmp_path / "out"), "--workers=1"]) == 2
    said = capsys.readouterr().err
    assert "no_black.png: " in said
    assert "ambiguous" in said


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"mask_level": 3, "mask_index": 3}, "data.conflict"),
        ({"mask_alpha": 1}, "data.invalid-value"),
        ({"mask_threshold": 256}, "data.invalid-value"),
        ({"mask_index": -1}, "data.invalid-value"),
        ({"mask_index": True}, "data.invalid-value"),
    ],
)
def test_a_statement_that_is_none_is_refused(tmp_path, said, code):
    with refused(DataError, code, *list(said)[:1]):
        jsonl.load(source(tmp_path, "mask.png", Image.fromarray(WHITE), **said), "train")


@pytest.mark.parametrize(("name", "said"), [("rim.jpg", {"mask_index": 1}), ("white.png", {"mask_alpha": True})])
def test_what_a_mask_does_not_have_cannot_be_meant(tmp_path, name, said):
    root = source(tmp_path, name, Image.fromarray(WHITE), **said)
    with refused(ImageError, "image.unreadable", name, next(iter(said))):
        mask_of(DataConfig(source="jsonl", root=root))


def test_a_level_of_a_jpeg_mask_is_refused_in_every_source(tmp_path):
    with refused(ImageError, "image.unreadable", "mask.jpg", "mask_threshold"):
        decode_mask(MaskFile(saved(Image.fromarray(WHITE), tmp_path / "mask.jpg"), 255), "x")
