"""Pillow's formats: one picture of a file, whole, at the depth that the file has, or an error that says why not.

Pillow alone gives less: of 16-bit colours the upper byte, of deep TIFF greys whose zero is white the negative, and
where compressed data end before the picture does, black or grey rows. It opens any file whose first bytes some format
knows; here it opens those of `FORMATS`.
"""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from data_pipelines.core.errors import ImageError, InvalidPart, UserError, reason_of, unreadable_image
from data_pipelines.core.first_bytes import HEAD, disguise
from data_pipelines.images import deep_modes
from data_pipelines.images.picture_ends import ends_early
from data_pipelines.images.pixels import deep_grey, is_deep, stretched, to_rgb
from data_pipelines.images.png_chunks import without_long_texts
from data_pipelines.images.scan_parts import WHOLE, ScanPart, refuse, require_size, say_if_flat, warn_once, within
from data_pipelines.settings import MAX_IMAGE_PIXELS

# Importing a plugin makes its format known to Pillow.
_PLUGINS = {
    "PNG": PngImagePlugin, "JPEG": JpegImagePlugin, "TIFF": TiffImagePlugin, "GIF": GifImagePlugin,
    "BMP": BmpImagePlugin, "WEBP": WebPImagePlugin, "JPEG2000": Jpeg2KImagePlugin, "PPM": PpmImagePlugin,
    "AVIF": AvifImagePlugin,
}  # fmt: skip
FORMATS = tuple(_PLUGINS)
_OF_PAGES = ("TIFF", "GIF", "WEBP", "AVIF")
# Pictures of which only a strip of rows is converted at a time: Pillow keeps colours in four bytes a pixel.
_STRIP = 2**24


class Picture(NamedTuple):
    """A picture that Pillow has opened and not yet decoded, and the file that it is in."""

    image: ImageFile.ImageFile
    file: IO[bytes]


@contextmanager
def opened_picture(image: str | bytes, name: str, part: ScanPart = WHOLE) -> Iterator[Picture]:
    """The picture, not yet decoded, at the page that is meant.

    Args:
      image: path without a part, or the file's bytes.
      name: names it in messages.
      part: `page` or `frame`, from 1; the first where neither is given, and that there are more is said.

    Raises:
      ImageError: missing, or none of `FORMATS`, or damaged.
      DataError: no such page.
    """
    try:
        with _file(image, name) as file, recognised(file, name) as opened:
            _turn_to(opened, part, name)
            deep_modes.mend_order(opened)
            yield Picture(opened, file)
    except UserError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{name}: image is missing; restore it", code="image.missing") from None
    # Pillow reports bad files with many types: OSError, SyntaxError, ValueError, zlib.error, struct.error …
    except Exception as error:
        raise unreadable_image(name, damage(error)) from error


def decode_picture(
    image: str | bytes, name: str, part: ScanPart = WHOLE, max_pixels: int = MAX_IMAGE_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in RGB. Transparency is dropped; greys and colours of more than 8 bits are stretched.

    Args:
      image, name, part: as `opened_picture`.
      max_pixels: `DataConfig.max_image_pixels`.

    Raises:
      ImageError: as `opened_picture`; or larger than allowed, empty, or ending before its last row.
    """
    with opened_picture(image, name, part) as picture:
        require_size(picture.image.size, name, max_pixels)
        if (colours := _deep_colours(picture, name)) is not None:
            return colours
        load_whole(picture, name)
        if is_deep(picture.image.mode):
            grey = deep_grey(picture.image)
            say_if_flat(grey, name)
            return np.repeat(grey[..., None], 3, axis=2)
        return _rgb(picture.image)


def _deep_colours(picture: Picture, name: str) -> UInt8[np.ndarray, "H W 3"] | None:
    """Colours, or greys with transparency, of 16 bits; None of another picture, which Pillow reads whole.

    Greys are stretched as those without transparency are. Colours of which some use the highest bit keep their upper
    byte, as Pillow gives it; others, such as of 12-bit scanners, are stretched, all channels alike.
    """

    def loaded(raw_mode: str) -> UInt8[np.ndarray, "H W C"]:
        opened = recognised(picture.file, name)
        opened.seek(picture.image.tell())
        deep_modes.read_as(opened, raw_mode)
        load_whole(Picture(opened, picture.file), name)
        return np.asarray(opened)

    values = deep_modes.deep_samples(picture.image, loaded)
    if values is None:
        return None
    if values.shape[2] == 1:
        grey = stretched(values[..., 0], white_is_zero=deep_modes.white_is_zero(picture.image))
        say_if_flat(grey, name)
        return np.repeat(grey[..., None], 3, axis=2)
    if values.max() >= 2**15:
        return (values >> 8).astype(np.uint8)
    colours = stretched(values)
    say_if_flat(colours[..., 1], name)
    return colours


def load_whole(picture: Picture, name: str) -> None:
    """Decodes an opened picture. Raises: ImageError: the file's data end before the picture does."""
    picture.image.load()
    if ends_early(*picture):
        raise unreadable_image(name, "its data end before its last row: it was cut short", "copy it again")


def damage(error: Exception) -> str:
    """What another library says of a file that it cannot read; never the name of an exception alone."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    said = reason_of(error) if str(error).strip() else "it is damaged or not whole"
    # KeyError and IndexError say what was looked for, not what is wrong.
    return f"it is damaged: {said}" if isinstance(error, LookupError) else said


@contextmanager
def _file(image: str | bytes, name: str) -> Iterator[IO[bytes]]:
    if isinstance(image, bytes):
        yield io.BytesIO(image)
        return
    if not stat.S_ISREG(os.stat(image).st_mode):
        raise unreadable_image(name, "it is no regular file", "name an image file")
    with open(image, "rb") as file:
        yield file


def recognised(file: IO[bytes], name: str) -> ImageFile.ImageFile:
    """Pillow's image of a file, not yet decoded. Raises ImageError: it is none of `FORMATS`."""
    file.seek(0)
    head = file.read(16)
    for form in FORMATS:
        factory, accept = Image.OPEN[form]
        if accept is None or accept(head) is not True:
            continue
        file.seek(0)
        try:
            deep_modes.declare()
            # Not by Image.open: its bound on pixels is one for the whole process.
            return factory(without_long_texts(file) if form == "PNG" else file, "")
        except SyntaxError as error:
            raise unreadable_image(name, f"damaged {form}: {damage(error)}") from None
    file.seek(0)
    what, _, remedy = disguise(file.read(HEAD)).partition("; ")
    known = f"no known image format: none of {', '.join(FORMATS)}, DICOM and NIfTI"
    raise unreadable_image(name, what or known, remedy or "convert it")


def _turn_to(opened: ImageFile.ImageFile, part: ScanPart, name: str) -> None:
    refuse(part, ("axis", "slice", "volume", "window"), name, "what is neither DICOM nor NIfTI")
    if part.page is not None and part.frame is not None:
        raise InvalidPart(f"{name}: page and frame are the same; write one of them")
    field = "page" if part.frame is None else "frame"
    number = part.page if part.frame is None else part.frame
    if opened.format not in _OF_PAGES:
        refuse(part, ("page", "frame"), name, f"a {opened.format} file, unlike DICOM and TIFF,")
    animated = opened.format in _OF_PAGES and getattr(opened, "is_animated", False)
    pages = getattr(opened, "n_frames", 1) if animated else 1
    if number is not None:
        opened.seek(within(field, number, range(1, pages + 1), name) - 1)
    elif pages > 1:
        warn_once(f"{name}: has {pages} pages, and the first is read; name another with #page=2 behind the file's name")


def _rgb(image: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    width, height = image.size
    if width * height <= _STRIP:
        return np.array(to_rgb(image))
    picture = np.empty((height, width, 3), np.uint8)
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        rows = image.crop((0, top, width, min(top + step, height)))
        picture[top : top + step] = np.asarray(rows.convert("RGB"))
    return picture
