"""Asks an exported model the questions of the region trust benchmark, with nothing but transformers and PyTorch.

    python docs/trust_exported_model.py FOLDER --boxes slake_test.jsonl --root DIR --out trust/exported
    python -m rllava_jax.trust score --answers trust/exported --boxes slake_test.jsonl

FOLDER is what `python -m rllava_jax.convert export` wrote for a model with regions. Its Python files are run
(trust_remote_code): read them first. To measure any other model, write another `answer`. Research use, not a medical
device.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from rllava_jax.evaluation.trust import boxes_file
from rllava_jax.evaluation.trust.images import images_of
from rllava_jax.evaluation.trust.models import measure


def answers_of(folder, max_new_tokens=24):
    """A function of an image (Pillow), a question and boxes (x, y, w, h in pixels) to answer and confidence."""
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    eos = model.generation_config.eos_token_id

    def answer(image, question, boxes):
        inputs = processor(images=image, text=question, regions=list(boxes) or None, return_tensors="pt")
        inputs = inputs.to(model.device)
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        scores = model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)[0]
        tokens = out.sequences[0, -len(out.scores) :].tolist()
        length = tokens.index(eos) + 1 if eos in tokens else len(tokens)
        # The probability of the whole answer, its end included.
        confidence = scores[:length].double().sum().exp().clamp(max=1).item()
        return processor.answers(out.sequences, inputs)[0], confidence

    return answer


def main():
    """Reads the arguments and asks; started again, it goes on where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--boxes", required=True, help="a file of `python -m rllava_jax.trust boxes`")
    parser.add_argument("--root", default="", help="the folder of the data set")
    parser.add_argument("--out", required=True, help="a folder for the answers")
    parser.add_argument("--questions", type=int, default=0, help="at most so many of each family (default: all)")
    parser.add_argument("--max-regions", type=int, default=1, help="boxes that the model can be shown (default: 1)")
    options = parser.parse_args()

    boxes = boxes_file.read(Path(options.boxes))
    measure(
        answers_of(options.folder),
        boxes,
        images_of(boxes, options.root),
        name=options.folder,
        most_regions=options.max_regions,
        most_questions=options.questions,
        out=Path(options.out),
    )


if __name__ == "__main__":
    main()
