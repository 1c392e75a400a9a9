"""The images of a boxes file, found again in its data set."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from PIL import Image

from data_pipelines.core.errors import DataError, MissingOption, UnclearBoxes
from data_pipelines.images.reading import decode, size_of
from data_pipelines.loading.evaluation_batches import EvaluationRequest
from data_pipelines.loading.examples import load_examples
from data_pipelines.records import ImageSource, Region, VQAExample
from data_pipelines.regions.perturbations import PREFIX, Variant
from data_pipelines.regions.policy import Shown
from data_pipelines.settings import DataConfig
from data_pipelines.sources.registry import DRAWN
from rllava_jax.evaluation.predictions import common_fields
from rllava_jax.evaluation.trust.boxes_file import BoxesFile, TrustQuestion


def examples_of(source: str, root: str, split: str, settings: Mapping[str, Any]) -> list[VQAExample]:
    """Every example of a split, region questions included.

    Args:
      settings: languages, window, seed and max_regions, as in a boxes file's header.

    Raises:
      DataError: the data set is unknown, or its files are missing or malformed.
    """
    if not root and source not in DRAWN:
        raise MissingOption(f"--root: is empty; name the folder of {source}")
    data = DataConfig(
        source=source, root=root, test_split=split, languages=tuple(settings["languages"]), window=settings["window"]
    )
    try:
        return load_examples(data, split, seed=settings["seed"], max_regions=settings["max_regions"])
    except UnclearBoxes as error:
        raise UnclearBoxes(f"{error}; prepare the data set with it, and name that with --data prepared") from None


def sources_of(boxes: BoxesFile, root: str) -> dict[str, ImageSource]:
    """Where each image of the file is, by image_id.

    Raises:
      DataError: the data under `root` lacks an image, or has one of another size.
    """
    header = boxes.header
    found = {e.image_id: e for e in examples_of(header["source"], root, header["split"], header["settings"])}
    sizes = {question.image_id: question.image_size for question in boxes.questions}
    for image_id, size in sizes.items():
        if image_id not in found:
            raise DataError(
                f"{root}: has no image {image_id!r}, which the boxes file asks about; give the same data set",
                code="image.missing",
            )
        there = size_of(found[image_id].image, image_id)
        if there != tuple(size):
            raise DataError(
                f"{root}: image {image_id!r} has {there[0]} x {there[1]} pixels, the boxes were made for "
                f"{size[0]} x {size[1]}; give the same data set",
                code="trust.other-boxes",
            )
    return {image_id: found[image_id].image for image_id in sizes}


def images_of(boxes: BoxesFile, root: str) -> Callable[[TrustQuestion], Image.Image]:
    """A function that decodes the image of a question. Raises as `sources_of`."""
    sources, window = sources_of(boxes, root), boxes.header["settings"]["window"]

    @lru_cache(maxsize=1)  # questions about one image follow one another
    def image(image_id: str) -> Image.Image:
        return Image.fromarray(decode(sources[image_id], image_id, window))

    return lambda question: image(question.image_id)


def request_of(question: TrustQuestion, variant: Variant, image: ImageSource) -> EvaluationRequest:
    """The question as it is put to a model, its picture and its regions those of a variant."""
    right = tuple(map(Region, question.right_boxes, question.right_labels))
    fields = common_fields(question, VQAExample, image=image, question=variant.question, regions=right)
    shown = Shown(tuple(map(Region, variant.boxes, variant.labels)), variant.name)
    return EvaluationRequest(VQAExample(**fields), shown, f"{PREFIX}{variant.name}")
