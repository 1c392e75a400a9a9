"""The two kinds of model that can be asked: a checkpoint of this project, and any function."""

import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from data_pipelines.core.errors import DataError, InvalidOption
from data_pipelines.loading.evaluation_batches import EvaluationRequest
from data_pipelines.records import ImageSource
from data_pipelines.regions.boxes import box_to_pixels
from data_pipelines.regions.perturbations import PREFIX, VARIANTS
from rllava_jax.evaluation.evaluator import evaluate, prediction_of
from rllava_jax.evaluation.predictions import Prediction
from rllava_jax.evaluation.trust.boxes_file import BoxesFile, TrustQuestion
from rllava_jax.evaluation.trust.images import request_of
from rllava_jax.evaluation.trust.run import Asked, Run, ask_all, askable, chosen
from rllava_jax.inference.predictor import Predictor

PixelBox = tuple[float, float, float, float]
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
AnswerFunction = Callable[[Image.Image, str, Sequence[PixelBox]], tuple[str, float | None]]


def measure(
    answer: AnswerFunction,
    boxes: BoxesFile,
    images: Callable[[TrustQuestion], Image.Image],
    *,
    name: str,
    most_regions: int = 2,
    most_questions: int = 0,
    out: Path | None = None,
) -> tuple[list[Prediction], Run]:
    """Asks any function the benchmark's questions.

    Args:
      answer: maps an RGB image, a question and the shown boxes (x, y, w, h in pixels of the image; perhaps none) to
        the answer and its confidence, 0..1, or None if it has none.
      images: of a question, e.g. `images.images_of(boxes, root)`.
      name: of the model, for `run.json`.
      most_regions: boxes that the function takes at once; variants that need more are not asked, and counted.
      most_questions: of each family; 0 is all.
      out: folder that keeps the answers, variant by variant; a second call goes on where the first one stopped.

    Raises:
      DataError: an answer is no text or a confidence no probability; `out` holds the answers of another run.
    """

    def ask(asked: Asked) -> tuple[list[Prediction], set[bool]]:
        found, gives = [], set()
        for question, variant in tqdm(asked, desc=f"{PREFIX}{asked[0][1].name}", unit="example", disable=None):
            width, height = question.image_size
            pixels = [box_to_pixels(box, width=width, height=height) for box in variant.boxes]
            image = images(question)
            try:
                reply: object = answer(image, variant.question, pixels)
            except Exception as error:  # the user's own function
                said = f"{type(error).__name__}: {error}"
                raise DataError(
                    f"{question.id}, {variant.name}: the function raised {said}; fix it", code="trust.adapter-fails"
                ) from error
            text, confidence = _checked(reply, question, variant.name)
            log_prob = math.log(confidence) if confidence else 0.0
            found.append(prediction_of(request_of(question, variant, ""), text, confidence or 0.0, log_prob))
            gives.add(confidence is not None)
        return found, gives

    return ask_all(boxes, ask, Run({"function": name}, boxes.sha256, most_regions, most_questions), out)


def measure_predictor(
    predictor: Predictor,
    boxes: BoxesFile,
    sources: Mapping[str, ImageSource],
    *,
    model: dict[str, Any],
    batch_size: int = 64,
    most_questions: int = 0,
    out: Path | None = None,
) -> tuple[list[Prediction], Run]:
    """Asks a loaded checkpoint, greedily, in batches of one shape, so that one program is compiled.

    Boxes are shown as plain boxes also to a model that was trained with outlines, since wrong ones have none.

    Args:
      sources: image_id → where it is.
      model: names it in `run.json`.

    Raises:
      DataError: `out` holds the answers of another run.
    """

    def requests(asked: Asked) -> list[EvaluationRequest]:
        return [request_of(question, variant, sources[question.image_id]) for question, variant in asked]

    most_regions, preprocessor = predictor.most_regions, predictor.preprocessor
    questions = chosen(boxes, most_questions)
    everything = [pair for name in VARIANTS for pair in askable(questions, name, most_regions)]
    # The longest prompt of all variants: padding is invisible to the model, and one length compiles one program.
    lengths = (preprocessor.prompt_tokens(one.example, one.shown) for one in requests(everything))
    length = max(preprocessor.data.text_length, *lengths)
    longer = replace(preprocessor, data=replace(preprocessor.data, text_length=length))
    object.__setattr__(longer, "cache", preprocessor.cache)  # decoded images stay in memory

    def ask(asked: Asked) -> tuple[list[Prediction], set[bool]]:
        generator, params = predictor.generator, predictor.params
        found = evaluate(
            generator, params, longer, requests(asked), batch_size=batch_size, one_shape=True, progress="trust"
        )
        return found, {True}

    return ask_all(boxes, ask, Run(model, boxes.sha256, most_regions, most_questions), out)


def function_named(name: str) -> AnswerFunction:
    """The function of `module:function`; modules in the current folder are found, too.

    Raises:
      DataError: there is no such module or function.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise InvalidOption(f"--adapter {name}: is not module:function; name a Python function")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found: AnswerFunction = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the user's module does when it is imported
        said = f"{type(error).__name__}: {error}"
        raise InvalidOption(f"--adapter {name}: cannot be imported ({said}); name a Python function") from error
    if not callable(found):
        raise InvalidOption(f"--adapter {name}: is no function; name one of (image, question, boxes)")
    return found


def _checked(reply: object, question: TrustQuestion, variant: str) -> tuple[str, float | None]:
    answer, confidence = reply if isinstance(reply, tuple) and len(reply) == 2 else ("", None)
    if not isinstance(reply, tuple) or len(reply) != 2:
        fault = f"the function gave {reply!r:.80}; return (answer, confidence or None)"
    elif not isinstance(answer, str):
        fault = f"the answer is {answer!r:.80}; return a text"
    elif _HALF_CHARACTER.search(answer):
        fault = f"the answer {answer!r:.80} holds half a character; return all"
    elif confidence is not None and not (isinstance(confidence, Real) and 0 <= float(confidence) <= 1):
        fault = f"the confidence is {confidence!r:.80}; return a probability, 0 to 1, or None"
    else:
        return answer, None if confidence is None else float(confidence)
    raise DataError(f"{question.id}, {variant}: {fault}", code="trust.invalid-reply")
