"""A data set is one module and one line of the registry: then it can be trained on, prepared and inspected."""

from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError
from data_pipelines.loading.examples import load_examples
from data_pipelines.prepare import main
from data_pipelines.sources import registry
from rllava_jax.config import DataConfig

TOY = """
import os

from data_pipelines.records import Count, DataCard, Region, Source
from data_pipelines.sources.split_builder import begin_split

CARD = DataCard("toy", "Toy films", "films in a folder", "none", "none", "CC0", "*.png", splits={"train": Count(2, 2)})


def load(root, split):
    found = begin_split(CARD, root, split)
    for name in ("a.png", "b.png", "gone.png"):
        if file := found.file(os.path.join(root, name), name):
            image = found.image(file, name, regions=(Region((0, 0, 0.5, 0.5), "Lung"),))
            found.question(image, name, question="Is it a film?", answer="Yes", answer_type="closed")
    return found.finished()


SOURCE = Source(CARD, load)
"""


def test_a_module_and_a_line_add_a_data_set(tmp_path, monkeypatch, capsys):
    (tmp_path / "toy_films.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry.SOURCES.entries, "toy", "toy_films:SOURCE")
    root = tmp_path / "films"
    root.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(root / name)

    examples = load_examples(DataConfig(source="toy", root=str(root)), "train", seed=0, max_regions=4)
    assert [example.id for example in examples if example.family == "vqa"] == ["toy/a.png", "toy/b.png"]
    assert {example.family for example in examples} >= {"identify", "localise"}

    assert main(["toy", "--source", str(root), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    assert "train: 2 questions, 2 images, 2 boxes" in capsys.readouterr().out
    with refused(DataError, "data.unknown-name", "test", "train"):
        registry.SOURCES.get("toy", setting="data.source").load(str(root), "test")
