"""Asks a finished run about an image, with and without a marked region.

    python examples/quickstart.py                                            # of `make demo`; a phantom is drawn
    python examples/quickstart.py runs/slake_tiny scan.jpg --box 120,88,64,70

Research use, not a medical device.
"""

from __future__ import annotations

import argparse

import rllava_jax
from data_pipelines.regions.boxes import box_to_pixels
from data_pipelines.settings import PhantomConfig
from data_pipelines.sources.phantom import load

QUESTION = "What is the marked structure?"
SIZE = 160


def main(argv: list[str] | None = None) -> None:
    """Prints two answers and how sure the model is of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", default="runs/demo", help="folder of a finished run (default: runs/demo)")
    parser.add_argument("image", nargs="?", help="an image file (default: a drawn phantom)")
    parser.add_argument("--box", help="X,Y,W,H in pixels of the image", default="24,24,40,40")
    options = parser.parse_args(argv)

    model = rllava_jax.load(options.run)
    if options.image:
        image, box = options.image, tuple(float(number) for number in options.box.split(","))
    else:
        image, box = phantom()
    print(QUESTION)
    print("the region marked:", model.ask(image, QUESTION, boxes=[box]))
    print("no region marked: ", model.ask(image, QUESTION))


def phantom() -> tuple[bytes, tuple[float, float, float, float]]:
    """A drawn slice, as a file's content, and the x, y, w, h of one of its structures."""
    drawn = load(PhantomConfig(test_images=1, image_size=SIZE), "test").images[0]
    return drawn.image, box_to_pixels(drawn.regions[0].box, width=SIZE, height=SIZE)


if __name__ == "__main__":
    main()
