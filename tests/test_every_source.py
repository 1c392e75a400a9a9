"""Every registered data set goes all the way: prepared, inspected, loaded, and trained on for a step."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from prepared_sets import in_process, without_places
from published_files import FIXTURES
from small_runs import CONFIG, one_device

from data_pipelines.inspect import main as inspect
from data_pipelines.loading.examples import load_examples, load_source
from data_pipelines.loading.loader import training_iterator
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.prepared.preparation import prepare
from data_pipelines.regions.box_reading import read_splits
from data_pipelines.sources import documents, phantom, registry
from data_pipelines.text.tokenizer import train_tokenizer
from rllava_jax.config import DataConfig, DocumentsConfig, PhantomConfig
from rllava_jax.model.sharding import to_devices
from rllava_jax.training.program import initial_state, make_program
from rllava_jax.training.step import make_train_step

BATCH, TEXT = 4, 160
# Drawn in full they take a minute.
FEW = {
    "phantom": functools.partial(phantom.load, PhantomConfig(validate_images=3, image_size=64)),
    "documents": functools.partial(documents.load, DocumentsConfig(validate_images=3, page_width=160)),
}


def source(name):
    found = registry.SOURCES.get(name, setting="NAME")
    return dataclasses.replace(found, load=lambda root, split: FEW[name](split)) if name in FEW else found


@pytest.fixture(scope="module")
def preprocessor(tmp_path_factory):
    texts = ["answer en which organ is shown? liver", "does this film show a mass? yes no"] * 3
    tokenizer = train_tokenizer(texts, tmp_path_factory.mktemp("words") / "small.model", vocab_size=300)
    return Preprocessor(28, 14, CONFIG.regions, DataConfig(text_length=TEXT, threads=1), tokenizer)


@pytest.fixture(scope="module")
def step(preprocessor):
    """One step of training, compiled once: takes a batch and gives the loss, and the largest change of a parameter."""
    mesh, vocab = one_device(), preprocessor.tokenizer.vocab_size
    program = make_program(CONFIG, mesh, vocab=vocab, steps=10, warmup=0)
    before = jax.tree.map(lambda x: np.array(x), initial_state(CONFIG, program, vocab=vocab))
    compiled = make_train_step(program, CONFIG, mesh)

    def run(batch):
        state, values = compiled(jax.tree.map(jax.device_put, before, program.shardings), to_devices(batch, mesh))
        changed = max(np.abs(np.asarray(state.params[k]) - v).max() for k, v in before.params.items())
        return float(values.scalars["loss"]), changed

    return run


def test_every_registered_source_has_files_to_be_tried_on():
    assert set(FIXTURES) == set(registry.SOURCES)


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.SOURCES)
def test_a_source_is_prepared_inspected_loaded_and_trained_on(name, tmp_path, preprocessor, step, capsys):
    fixture, root, out = FIXTURES[name], tmp_path / "in", tmp_path / name
    root.mkdir()
    fixture.write(root, fixture.rows)
    made = prepare(
        source(name), root=str(root), out=str(out), splits=(fixture.split,), allow_missing=True, run=in_process
    )
    assert not made["splits"][fixture.split]["left_out"]

    published = read_splits(source(name), str(root), (fixture.split,), named=True)[fixture.split]
    data = DataConfig(source="prepared", root=str(out), languages=("en",))
    stored = load_source(data, fixture.split)
    assert len(stored.images) >= 3
    if name not in FEW:  # whose images are bytes of their own, packed otherwise when they are stored
        assert [_said(r) for r in without_places(stored.records)] == [_said(r) for r in published.records]

    assert inspect([str(out), "--out", str(tmp_path / "shown"), "--workers", "1"]) == 0
    assert fixture.split in capsys.readouterr().out
    assert (tmp_path / "shown" / f"contact_sheet_{name}.png").exists()

    examples = load_examples(data, fixture.split, seed=0, max_regions=CONFIG.regions.max_regions)
    families = {example.family: 1.0 for example in examples}
    iterator = training_iterator(
        examples, preprocessor, families=families, batch_size=BATCH, seed=0, data=preprocessor.data
    )
    batch = next(iterator)
    iterator.close()
    loss, changed = step(batch)
    assert np.isfinite(loss)
    assert 0 < changed < 1


def _said(record):
    """A record without its pictures, which are stored anew."""
    regions = tuple(dataclasses.replace(region, mask=None) for region in record.regions)
    return dataclasses.replace(record, image="", regions=regions)
