"""The options of every command that takes boxes: what their numbers are, and which picture they were drawn on."""

import argparse
from typing import get_args

from data_pipelines.core.command_line import Parser
from data_pipelines.records import BoxReading
from data_pipelines.settings import BoxUnit, Orientation


def add_reading_options(parser: Parser) -> None:
    """Adds --boxes and --orientation."""
    parser.add_argument(
        "--boxes", default="", choices=[unit for unit in get_args(BoxUnit) if unit],
        help="what boxes and polygons are: pixels of the image, or normalised, shares of it. Left out they are pixels, "
        "and refused where they do not look like it (docs/DATA.md)",
    )  # fmt: skip
    parser.add_argument(
        "--orientation", default="", choices=[orientation for orientation in get_args(Orientation) if orientation],
        help="of photos with an EXIF orientation: stored leaves the pixels as they lie in the file, applied turns "
        "each as viewers show it; boxes are of that picture. Left out, boxes on such a photo are refused",
    )  # fmt: skip


def reading_of(options: argparse.Namespace) -> BoxReading:
    """What the options say."""
    return BoxReading(options.boxes, options.orientation)
