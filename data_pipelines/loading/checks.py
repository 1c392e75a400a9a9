"""What is checked of the examples before work starts: images can be read, texts fit, no test image is trained on."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from data_pipelines.core.errors import DataError, ImageError, listed
from data_pipelines.images.reading import fetched
from data_pipelines.images.scan_parts import split_part
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.records import ImageSource, MaskFile, VQAExample
from data_pipelines.text.prompt import count_tokens

logger = logging.getLogger(__name__)


def verify_images(
    examples: Sequence[VQAExample], preprocessor: Preprocessor, *, allowed: int, progress: bool = True
) -> list[VQAExample]:
    """Decodes every image and mask once, before work starts, and leaves out the examples whose image is unreadable.

    Done up front so that a corrupt file cannot change which examples later batches hold, and every worker agrees on it.
    What is decoded stays in the preprocessor's cache as far as it fits.

    Args:
      allowed: `data.corrupt_images_allowed`; so many unreadable images are skipped, counted and listed in a warning.

    Raises:
      DataError: more unreadable images than allowed; the message lists them.
    """
    masks = preprocessor.regions.outlines
    owners: dict[ImageSource | MaskFile, str] = {}
    for example in examples:
        for key in _files(example, masks=masks):
            owners.setdefault(key, example.image_id)

    def problem(key: ImageSource | MaskFile) -> str | None:
        cache = preprocessor.cache
        try:
            cache.mask(key, owners[key]) if isinstance(key, MaskFile) else cache.image(key, owners[key])
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(max(1, preprocessor.data.threads)) as pool:
        # disable=None: no bar where the output is no terminal.
        found = tqdm(
            pool.map(problem, owners), total=len(owners), desc="checking images", disable=None if progress else True
        )
        problems = {key: message for key, message in zip(owners, found, strict=True) if message is not None}
    if not problems:
        return list(examples)
    listing = listed([message.split(";")[0] for message in problems.values()])
    if len(problems) > allowed:
        raise DataError(
            f"{len(problems)} unreadable images, data.corrupt_images_allowed = {allowed}: {listing}; "
            "replace the files, or raise the number to train without them",
            code="image.unreadable",
        )
    kept = [example for example in examples if problems.keys().isdisjoint(_files(example, masks=masks))]
    lost = f"{len(examples) - len(kept)} of {len(examples)} examples"
    logger.warning("skipped %d unreadable images, and with them %s: %s", len(problems), lost, listing)
    return kept


def _files(example: VQAExample, *, masks: bool) -> list[ImageSource | MaskFile]:
    """The example's image, and its masks where they are shown, in a fixed order."""
    regions = (*example.regions, *example.distractors) if masks else ()
    return [example.image, *(region.mask for region in regions if region.mask is not None)]


def check_lengths(
    examples: Sequence[VQAExample], preprocessor: Preprocessor, *, answers: bool = True, allowed: int = 0
) -> list[VQAExample]:
    """Tokenises every example, with its regions shown, before work starts, and leaves out those that are too long.

    Args:
      answers: count the answer too (training); evaluation needs room for the prompt alone.
      allowed: `data.long_examples_allowed`; so many are left out, counted and listed in a warning.

    Raises:
      DataError: more do not fit in data.text_length; the message names the longest and the length needed. Also what
        `prompt.format_prefix` raises.
    """
    limit = preprocessor.data.text_length
    kept, too_long = [], []
    for example in examples:
        turns = preprocessor.turns(example, [region.box for region in example.regions])
        used = count_tokens(preprocessor.tokenizer, turns, answered=answers)
        if used > limit:
            too_long.append((used, example.id))
        else:
            kept.append(example)
    if not too_long:
        return kept
    too_long.sort(key=lambda item: (-item[0], item[1]))
    listing = listed([f"{name} ({used} tokens)" for used, name in too_long])
    if len(too_long) > allowed:
        without = f", or data.long_examples_allowed (now {allowed}) to train without them" if answers else ""
        raise DataError(
            f"{len(too_long)} examples do not fit in data.text_length = {limit}: {listing}; "
            f"raise it to {too_long[0][0]}{without}",
            code="data.too-long",
        )
    logger.warning(
        "left out %d of %d examples, longer than %d tokens: %s", len(too_long), len(examples), limit, listing
    )
    return kept


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
