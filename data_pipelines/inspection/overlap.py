"""Images that occur twice: between splits and data sets, by equal pixels and by a perceptual hash.

Equal means the same decoded pixels and shape, whatever the file's name, format or metadata. Alike means that pHash, 64
bits of a 32 x 32 thumbnail's cosine transform (https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html),
differs in few bits: it finds other sizes, compressions and tones of a picture, and may take neighbouring slices or
two chest X-rays for one.
"""

import contextlib
import functools
import hashlib
import logging
import multiprocessing
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt64
from PIL import Image
from tqdm import tqdm

from data_pipelines.core.errors import ImageError, listed
from data_pipelines.core.optional_packages import optional_package
from data_pipelines.images.reading import decode
from data_pipelines.inspection.figures import Figure
from data_pipelines.inspection.reading import DataSet
from data_pipelines.records import ImageSource

logger = logging.getLogger(__name__)

DEFAULT_BITS = 4  # of 64
_PAIRS = 2**24  # of hashes, compared at once


@dataclass(frozen=True)
class Fingerprint:
    """An image's pixels in short.

    Attributes:
      exact: SHA-256 of shape and pixels.
      perceptual: pHash, 64 bits.
    """

    exact: bytes
    perceptual: int


@dataclass(frozen=True)
class Group:
    """Images that are compared with others': a split, or one language of a split where its data set has several.

    Attributes:
      name: split and language, e.g. "test/en".
    """

    data_set: str
    split: str
    name: str
    image_ids: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """An image, and the image of another group that is most like it.

    Attributes:
      bits: in which the perceptual hashes differ.
      equal: whether the pixels are the same.
    """

    data_set: str
    split: str
    image_id: str
    other_data_set: str
    other_split: str
    other_image_id: str
    bits: int
    equal: bool


# Of an image: its data set, split and id, which need not be the same image in another split.
Key = tuple[str, str, str]


def fingerprints(data_sets: Sequence[DataSet], *, workers: int) -> dict[Key, Fingerprint]:
    """The fingerprint of every image, computed by that many processes with a progress bar.

    Unreadable images are left out, counted and named in a logged warning.

    Raises:
      ConfigError: imagehash is not installed.
    """
    optional_package("imagehash", "perceptual hashes")
    images = {
        (data_set.name, split, image.image_id): image.image
        for data_set in data_sets
        for split, content in data_set.splits.items()
        for image in content.images
    }
    names = {image: name for (_, _, name), image in images.items()}  # each file once
    found: dict[ImageSource, Fingerprint] = {}
    unreadable: list[str] = []
    with contextlib.ExitStack() as stack:
        mapped: Callable[..., Iterable[Fingerprint | str]] = map
        if workers > 1:
            # Started anew and not forked: the threads of NumPy's libraries do not survive a fork.
            pool = stack.enter_context(ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")))
            mapped = functools.partial(pool.map, chunksize=16)
        results = tqdm(mapped(_fingerprint, names, names.values()), "images", len(names), unit="", disable=None)
        for image, result in zip(names, results, strict=True):
            if isinstance(result, Fingerprint):
                found[image] = result
            else:
                unreadable.append(result)
    if unreadable:
        logger.warning("left out %d unreadable images: %s", len(unreadable), listed(unreadable))
    return {key: found[image] for key, image in images.items() if image in found}


def _fingerprint(image: ImageSource, name: str) -> Fingerprint | str:
    import imagehash

    try:
        pixels = decode(image, name)
    except ImageError as error:
        return str(error)
    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    return Fingerprint(digest, int(str(imagehash.phash(Image.fromarray(pixels))), 16))


def groups_of(data_sets: Iterable[DataSet]) -> list[Group]:
    """The groups of all splits; an image without a question counts in every language of its split."""
    groups = []
    for data_set in data_sets:
        languages = {example.language for content in data_set.splits.values() for example in content.examples}
        for split, content in data_set.splits.items():
            ids = list(dict.fromkeys(image.image_id for image in content.images))
            if len(languages) < 2:
                groups.append(Group(data_set.name, split, split, tuple(ids)))
                continue
            spoken: dict[str, set[str]] = defaultdict(set)
            for example in content.examples:
                spoken[example.image_id].add(example.language)
            for language in sorted(languages):
                chosen = tuple(name for name in ids if language in spoken.get(name, languages))
                groups.append(Group(data_set.name, split, f"{split}/{language}", chosen))
    return groups


def overlaps(
    groups: Sequence[Group], prints: Mapping[Key, Fingerprint], *, bits: int
) -> tuple[list[Figure], list[Match]]:
    """How many images of each group are in each other one, and which.

    Args:
      bits: images whose hashes differ in at most so many are alike.

    Returns:
      Figures `images_equal_to_some_of` and `images_like_some_of`, grouped by the other group ("slake train/zh"), by
      "another split" of the data set (in any language) and by "another data set"; `images_repeated`, which equal
      another image of their own group; and `images_compared`. A match for each image and other group that has one.
    """
    compared: list[dict[str, Fingerprint]] = []  # of each group its readable images, by name
    for group in groups:
        keys = ((group.data_set, group.split, name) for name in group.image_ids)
        compared.append({key[2]: prints[key] for key in keys if key in prints})
    figures: list[Figure] = []
    matches: list[Match] = []
    for group, mine in zip(groups, compared, strict=True):
        distinct = len({fingerprint.exact for fingerprint in mine.values()})
        counts = {("images_compared", "all"): len(mine), ("images_repeated", "all"): len(mine) - distinct}
        images: dict[tuple[str, str], set[str]] = defaultdict(set)
        for other, theirs in zip(groups, compared, strict=True):
            if other is group:
                continue
            # The group's name stands for the split.
            here, there = (group.data_set, group.name), (other.data_set, other.name)
            alike = _matches(mine, theirs, bits)
            found = [Match(*here, name, *there, other_name, apart, equal) for name, other_name, apart, equal in alike]
            matches += found
            kinds = [" ".join(there)]
            if other.data_set != group.data_set:
                kinds.append("another data set")
            elif other.split != group.split:
                kinds.append("another split")
            for kind in kinds:
                images["images_equal_to_some_of", kind] |= {match.image_id for match in found if match.equal}
                images["images_like_some_of", kind] |= {match.image_id for match in found}
        counts |= {key: len(ids) for key, ids in images.items()}
        figures += [Figure(group.data_set, group.name, *key, value) for key, value in counts.items()]
    return figures, matches


def _matches(
    mine: dict[str, Fingerprint], theirs: dict[str, Fingerprint], bits: int
) -> Iterator[tuple[str, str, int, bool]]:
    """Each image that has a match: its name, the name of what it is most like, bits apart, and whether it is equal."""
    if not mine or not theirs:
        return
    same = {fingerprint.exact: name for name, fingerprint in reversed(theirs.items())}
    names = list(theirs)
    a, b = (np.array([fingerprint.perceptual for fingerprint in side.values()], np.uint64) for side in (mine, theirs))
    for (name, fingerprint), distance, nearest in zip(mine.items(), *_nearest(a, b), strict=True):
        if fingerprint.exact in same:
            yield name, same[fingerprint.exact], 0, True
        elif distance <= bits:
            yield name, names[nearest], int(distance), False


def _nearest(a: UInt64[np.ndarray, " N"], b: UInt64[np.ndarray, " M"]) -> tuple[np.ndarray, np.ndarray]:
    """Of each hash of `a` the least number of bits in which it differs from one of `b`, and which that is."""
    rows = max(1, _PAIRS // len(b))
    found = []
    for start in range(0, len(a), rows):
        bits = np.bitwise_count(a[start : start + rows, None] ^ b)
        found.append((bits.min(axis=1), bits.argmin(axis=1)))
    distance, nearest = zip(*found, strict=True)
    return np.concatenate(distance), np.concatenate(nearest)
