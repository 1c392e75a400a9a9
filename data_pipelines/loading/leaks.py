"""Whether a run would train on images that it is later tested on."""

import hashlib
import logging
from collections.abc import Iterable

from data_pipelines.core.errors import DataError, ImageError, listed
from data_pipelines.images.reading import fetched
from data_pipelines.images.scan_parts import split_part
from data_pipelines.records import ImageSource, VQAExample

logger = logging.getLogger(__name__)


def check_leaks(
    train: Iterable[VQAExample], test: Iterable[VQAExample], *, allowed: bool, held_out: str = "test"
) -> None:
    """Refuses a training split that holds held-out images, by name or byte for byte under another name.

    VQA-RAD's published split does (202 of its 203 test images), and so does SLAKE with both languages.

    Args:
      test: the held-out examples.
      held_out: what the message calls them.
      allowed: `DataConfig.allow_test_images_in_training`; leaks are then only logged.

    Raises:
      DataError: images are shared and `allowed` is false; names the first ten.
      ImageError: an image file cannot be read.
    """
    train_images, test_images = _images(train), _images(test)
    train_hashes = {_sha256(image) for image in train_images.values()}
    leaked = sorted(
        image_id
        for (dataset, image_id), image in test_images.items()
        if (dataset, image_id) in train_images or _sha256(image) in train_hashes
    )
    if not leaked:
        return
    message = f"{len(leaked)} of {len(test_images)} {held_out} images are also training images: {listed(leaked)}"
    if not allowed:
        raise DataError(
            f"{message}; choose other splits or languages, or accept it with data.allow_test_images_in_training=True",
            code="data.leak",
        )
    logger.warning("%s; scores do not show how the model does on new images", message)


def _images(examples: Iterable[VQAExample]) -> dict[tuple[str, str], ImageSource]:
    return {(example.dataset, example.image_id): example.image for example in examples}


def _sha256(image: ImageSource) -> bytes:
    image = fetched(image)
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    try:
        # The whole file where a part of it is named: slices of one volume show one patient.
        with open(split_part(image)[0], "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise ImageError(
            f"{image}: cannot be read ({error.strerror}); copy it from the published data set", code="image.unreadable"
        ) from None
