"""Asks an exported model about a marked region, with nothing but transformers, PyTorch and Pillow.

    python docs/ask_exported_model.py FOLDER scan.png --box 120,88,64,70 "what is the marked structure?"

FOLDER is what `python -m rllava_jax.convert export` wrote for a model with regions. Its Python files are run
(trust_remote_code): read them first, as with any model that brings its own. Research use, not a medical device.
"""

import argparse

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


def main() -> None:
    """Reads the arguments, asks, and prints the answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("image")
    parser.add_argument("question")
    parser.add_argument("--box", action="append", default=[], metavar="X,Y,W,H", help="in pixels; repeat for several")
    options = parser.parse_args()

    processor = AutoProcessor.from_pretrained(options.folder, trust_remote_code=True)
    if not hasattr(processor, "answers"):
        parser.error(f"{options.folder}: is a plain PaliGemma without regions; its README.md shows how it is asked")
    model = AutoModelForImageTextToText.from_pretrained(options.folder, trust_remote_code=True).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    boxes = [tuple(float(number) for number in box.split(",")) for box in options.box]
    # The processor puts the question into the prompt that the model was trained with.
    inputs = processor(
        images=Image.open(options.image), text=options.question, regions=boxes or None, return_tensors="pt"
    ).to(model.device)
    with torch.inference_mode():
        generated = model.generate(**inputs, max_new_tokens=24)
    print(processor.answers(generated, inputs)[0])


if __name__ == "__main__":
    main()
