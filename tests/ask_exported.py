"""What an exported folder answers in whichever transformers is on the path. Imports nothing of the project.

Run in this process for the installed version, and as a script in one of its own for another:
`ask_exported.py FOLDER QUESTIONS.pkl OUT.pkl`.
"""

import pickle
import sys
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, PaliGemmaForConditionalGeneration

NEW_TOKENS = 6


def answers_of(folder, asked, suffixes):
    """Everything that the tests compare, as NumPy arrays and plain values.

    Args:
      asked: (image, question, regions) of each example.
      suffixes: an answer to each, for logits under teacher forcing.
    """
    model, processor, info = _load(folder)
    images, texts, regions = ([example[part] for example in asked] for part in range(3))
    inputs = processor(images=images, text=texts, regions=regions, return_tensors="pt")
    taught = processor(images=images, text=texts, regions=regions, suffix=suffixes, return_tensors="pt")
    found = {"keys": {name: sorted(info[f"{name}_keys"]) for name in ("missing", "unexpected", "mismatched")}}
    found["inputs"] = {name: value.numpy() for name, value in inputs.items()}
    found["token_type_ids"] = taught["token_type_ids"].numpy()
    found["labels"] = taught["labels"].numpy()
    with torch.no_grad():
        found["logits"] = model(**inputs).logits[:, -1].numpy()
        found["taught_logits"] = model(**taught).logits.numpy()
    generated = _generate(model, inputs)
    found["tokens"] = generated[:, inputs["input_ids"].shape[1] :].numpy()
    found["answers"] = processor.answers(generated, inputs)
    found["alone"] = [_alone(model, processor, example) for example in asked]
    found |= _without_regions(folder, model, processor, images, texts)
    found |= _saved_again(folder, model, processor, inputs)
    return found


def _load(folder, **extra):
    model, info = AutoModelForImageTextToText.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, **extra
    )
    return model, AutoProcessor.from_pretrained(folder, trust_remote_code=True), info


def _generate(model, inputs):
    return model.generate(**inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)


def _alone(model, processor, example):
    image, text, regions = example
    inputs = processor(images=image, text=text, regions=regions, return_tensors="pt")
    return _generate(model, inputs)[0, inputs["input_ids"].shape[1] :].numpy()


def _without_regions(folder, model, processor, images, texts):
    """Logits of the region model shown none, of it given empty slots, and of transformers' own PaliGemma."""
    inputs = processor(images=images, text=texts, return_tensors="pt")
    slots = model.config.rllava["regions"]["max_regions"]
    empty = {
        "regions": torch.zeros(len(images), slots, 4),
        "region_valid": torch.zeros(len(images), slots, dtype=torch.bool),
    }
    plain = PaliGemmaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        return {
            "none_names": sorted(inputs),
            "none_logits": model(**inputs).logits[:, -1].numpy(),
            "empty_logits": model(**inputs, **empty).logits[:, -1].numpy(),
            "plain_logits": plain(**inputs).logits[:, -1].numpy(),
        }


def _saved_again(folder, model, processor, inputs):
    again = Path(f"{folder}_again")
    model.save_pretrained(again)
    processor.save_pretrained(again)
    model, processor, info = _load(again, attn_implementation="eager")
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1].numpy()
    return {"again_keys": sorted({*info["missing_keys"], *info["unexpected_keys"]}), "again_logits": logits}


if __name__ == "__main__":
    given = pickle.loads(Path(sys.argv[2]).read_bytes())
    Path(sys.argv[3]).write_bytes(pickle.dumps(answers_of(sys.argv[1], *given)))
