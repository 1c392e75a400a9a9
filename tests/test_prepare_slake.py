"""The published SLAKE, prepared, is the published one."""

import numpy as np
import pytest
from prepared_sets import prepared, without_places

from data_pipelines.core.errors import DataError
from data_pipelines.loading.evaluation_batches import evaluation_batches, requests_under
from data_pipelines.loading.examples import load_examples, load_source
from data_pipelines.loading.loader import training_iterator
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.text.tokenizer import train_tokenizer
from rllava_jax.config import DataConfig, PolicyConfig, RegionConfig


@pytest.fixture(scope="module")
def prepared_slake(slake_root, tmp_path_factory):
    """The two smaller splits, both languages."""
    out = tmp_path_factory.mktemp("prepared") / "slake"
    splits = ("validate", "test")
    prepared(slake_root, out, "slake", splits=splits, allow_missing=True)
    return str(out)


def test_the_copy_of_slake_lacks_16_images_which_are_named(slake_root, tmp_path):
    with pytest.raises(DataError, match=r"slake train: 9,834 questions expected, 9,610 found; 586 .* 571 found") as e:
        prepared(slake_root, tmp_path / "out", "slake")
    assert "image not in the folder (15): xmlab26, xmlab27" in str(e.value)
    assert "slake validate: 2,099 questions expected, 2,044 found" in str(e.value)


@pytest.mark.slow
@pytest.mark.parametrize("languages", [("en",), ("zh",), ("en", "zh")])
@pytest.mark.parametrize("split", ["validate", "test"])
def test_prepared_slake_is_the_published_one(slake_root, prepared_slake, split, languages):
    published = load_source(DataConfig(source="slake", root=slake_root, languages=languages), split)
    read = load_source(DataConfig(source="prepared", root=prepared_slake, languages=languages), split)
    assert without_places(read.examples) == without_places(published.examples)
    assert without_places(read.images) == without_places(published.images)


@pytest.mark.slow
def test_prepared_slake_gives_the_batches_of_the_published_one_bit_for_bit(slake_root, prepared_slake, tmp_path):
    texts = ["answer en what is the marked structure?", "detect left lung", "what organ is it"] * 40
    tokenizer = train_tokenizer(texts, tmp_path / "small.model", vocab_size=300)
    regions = RegionConfig(encoders=("crop", "overlay"), crop_size=28, tokens=4, outlines=True)

    def batches(source, root):
        data = DataConfig(source=source, root=root, text_length=200, policy=PolicyConfig(shown=0.8))
        examples = load_examples(data, "validate", seed=3, max_regions=1)
        preprocessor = Preprocessor(56, 14, regions, data, tokenizer)
        families = {"vqa": 0.5, "identify": 0.3, "verify": 0.2}
        iterator = training_iterator(examples, preprocessor, families=families, batch_size=16, seed=5, data=data)
        training = [next(iterator) for _ in range(3)]
        state = iterator.get_state()
        iterator.close()
        asked = next(evaluation_batches(requests_under(examples[:16], "right", ()), preprocessor, 16))[0]
        return [[examples[i].id for i in batch["index"]] for batch in training], [*training, asked], state

    ids, arrays, state = batches("slake", slake_root)
    ids_read, arrays_read, state_read = batches("prepared", prepared_slake)
    assert ids == ids_read
    assert state == state_read
    for batch, read in zip(arrays, arrays_read, strict=True):
        assert batch.keys() == read.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], read[name])
