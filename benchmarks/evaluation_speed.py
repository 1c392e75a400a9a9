"""Examples per second of an evaluation, beside transformers' `generate` on the same weights and questions.

    python benchmarks/evaluation_speed.py --checkpoint runs/slake_tiny --root DIR/slake --core 1 --rounds 5

The checkpoint is exported (`python -m rllava_jax.convert export`) and loaded with transformers as
docs/ask_exported_model.py does. Both answer the same questions about the right region, greedily, in the same batches of
the same questions (of like length and answer, which is the best order for both), each in a process of its own, both on
the one core that --core names, in turn. First answers are compared, and warm both up.

generate   prepared inputs to tokens and text: `Generator.answer`, and `model.generate` with `processor.answers`
evaluate   decoded images, questions and boxes to answers: preprocessing too
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from speed.rounds import environment
from speed.spread import ratio, spread

SYSTEMS = ("rllava_jax", "transformers")
TASKS = ("generate", "evaluate")
# float32 sums in another order: a near tie between two tokens may fall otherwise, now and then.
ALIKE = 0.99


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(arguments)
    if options.worker:
        _serve(options)
        return 0
    with tempfile.TemporaryDirectory(prefix="evaluation_speed") as made:
        folder = Path(made) / "exported"
        command = [sys.executable, "-m", "rllava_jax.convert", "export", str(options.checkpoint), str(folder)]
        subprocess.run(command + (["--step", options.step] if options.step else []), check=True, stdout=sys.stderr)
        workers = {name: _Worker(name, folder, arguments) for name in SYSTEMS}
        print(json.dumps(_measure(workers, options, arguments), indent=1))
        for worker in workers.values():
            worker.close()
    return 0


class _Worker:
    """A process that holds one system; a line asks it for one pass over the questions."""

    def __init__(self, system: str, folder: Path, arguments: Sequence[str]):
        command = [sys.executable, __file__, *arguments, "--worker", system, "--exported", str(folder)]
        self.system = system
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(system)
        )
        ready = self._line()
        self.answers: list[str] = ready["answers"]
        self.facts: dict[str, Any] = ready["facts"]

    def seconds(self, task: str) -> dict[str, float]:
        """Wall and processor seconds of a pass."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{task}\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self.system}: the process ended; see its messages above")
        return json.loads(line)


def _measure(workers: dict[str, _Worker], options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    ours, theirs = (workers[name] for name in SYSTEMS)
    same = [a == b for a, b in zip(ours.answers, theirs.answers, strict=True)]
    share = sum(same) / len(same)
    if share < ALIKE:
        raise SystemExit(f"error: only {share:.1%} of the answers are the same: the systems do different things")
    draw = random.Random(options.seed)
    measured: dict[str, Any] = {}
    for task in TASKS:
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in SYSTEMS}
        for _ in range(options.rounds):
            for name in draw.sample(SYSTEMS, len(SYSTEMS)):
                taken[name].append(workers[name].seconds(task))
        measured[task] = {
            clock: {
                **{
                    name: [round(x, 1) for x in spread([len(same) / one[clock] for one in taken[name]])]
                    for name in SYSTEMS
                },
                "times": [
                    round(x, 2)
                    for x in ratio(
                        [one[clock] for one in taken["transformers"]], [one[clock] for one in taken["rllava_jax"]]
                    )
                ],
            }
            for clock in ("wall", "processor")
        }
    return {
        "command": shlex.join(["python", "benchmarks/evaluation_speed.py", *arguments]),
        "questions": len(same),
        "same answers": share,
        **{name: worker.facts for name, worker in workers.items()},
        "examples per second: median, least, most": measured,
    }


def _serve(options: argparse.Namespace) -> None:
    """Loads one system on its core, answers once, and then answers as often as it is asked."""
    if options.core is not None:
        # Before either system counts the cores and starts its threads.
        os.sched_setaffinity(0, {options.core})
    answers_to = os.fdopen(os.dup(1), "w")  # what libraries print must not mix with the answers
    os.dup2(2, 1)
    tasks, facts = (_ours if options.worker == "rllava_jax" else _theirs)(options, _asked(options))
    answers = {task: tasks[task]() for task in TASKS}
    if answers["generate"] != answers["evaluate"]:
        raise SystemExit(f"error: {options.worker}: answers differ between its two tasks")
    print(json.dumps({"answers": answers["generate"], "facts": facts}), file=answers_to, flush=True)
    for line in sys.stdin:
        wall, processor = time.perf_counter(), time.process_time()
        tasks[line.strip()]()
        taken = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
        print(json.dumps(taken), file=answers_to, flush=True)


def _asked(options: argparse.Namespace) -> Any:
    """The checkpoint's configuration and its questions, ordered as an evaluation asks them, whole batches only."""
    from data_pipelines.loading.evaluation_batches import evaluation_batches, requests_under
    from rllava_jax.checkpoint.opened import OpenedCheckpoint
    from rllava_jax.evaluation.evaluate_options import make_parser
    from rllava_jax.evaluation.evaluator import choose_examples
    from rllava_jax.evaluation.run_checkpoint import asked_config
    from rllava_jax.inference.run_data import load_run_data

    step = ["--step", options.step] if options.step else []
    said = ["--checkpoint", str(options.checkpoint), "--out", "-", "--root", options.root, *step]
    asked = make_parser("").parse_args([*said, "--batch-size", str(options.batch)])
    opened = OpenedCheckpoint.open(options.checkpoint, options.step)
    config = asked_config(opened.config, asked, devices=1)
    task = load_run_data(config, tokenizer=opened.tokenizer, training=False)
    families = [family for family in config.evaluation.families if family != "localise"]
    examples = choose_examples(task.test, families, most=0)
    random.Random(options.seed).shuffle(examples)
    examples = examples[: options.questions // options.batch * options.batch]
    batches = list(
        evaluation_batches(requests_under(examples, "right", ()), task.preprocessor, options.batch, alike=True)
    )
    return opened, config, task.preprocessor, batches


Tasks = dict[str, Callable[[], list[str]]]


def _ours(options: argparse.Namespace, asked: Any) -> tuple[Tasks, dict[str, Any]]:
    import jax

    from rllava_jax.evaluation.evaluator import evaluate_examples
    from rllava_jax.inference.predictor import Predictor

    opened, config, preprocessor, batches = asked
    predictor = Predictor.load(opened, new_tokens=options.new_tokens)
    arrays = [batch for batch, _ in batches]
    examples = [request.example for _, rows in batches for request in rows]
    settings = dataclasses.replace(config.evaluation, conditions=("right",), batch_size=options.batch)

    def generate() -> list[str]:
        return [a.text for batch in arrays for a in predictor.generator.answer(predictor.params, batch)]

    def whole() -> list[str]:
        found = evaluate_examples(predictor.generator, predictor.params, preprocessor, examples, settings)
        return [prediction.prediction for prediction in found]

    return {"generate": generate, "evaluate": whole}, {
        "jax": jax.__version__,
        "text lengths": sorted({batch["text"].shape[1] for batch in arrays}),
    }


def _theirs(options: argparse.Namespace, asked: Any) -> tuple[Tasks, dict[str, Any]]:
    import torch
    import transformers
    from PIL import Image

    from data_pipelines.regions.boxes import box_to_pixels

    _, _, preprocessor, batches = asked
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    processor = transformers.AutoProcessor.from_pretrained(options.exported, trust_remote_code=True)
    model = transformers.AutoModelForImageTextToText.from_pretrained(options.exported, trust_remote_code=True).eval()
    questions = []
    for _, rows in batches:
        images = [Image.fromarray(preprocessor.cache.image(example.image, example.id)) for example, _ in rows]
        boxes = [
            [box_to_pixels(region.box, width=image.width, height=image.height) for region in shown.regions] or None
            for (_, shown), image in zip(rows, images, strict=True)
        ]
        questions.append((images, [example.question for example, _ in rows], boxes))

    def prepare(images: Any, texts: Any, boxes: Any) -> Any:
        return processor(images=images, text=texts, regions=boxes, return_tensors="pt")

    def answer(inputs: Any) -> list[str]:
        with torch.inference_mode():
            generated = model.generate(**inputs, max_new_tokens=options.new_tokens, do_sample=False)
        return list(processor.answers(generated, inputs))

    prepared = [prepare(*batch) for batch in questions]
    return {
        "generate": lambda: [text for inputs in prepared for text in answer(inputs)],
        "evaluate": lambda: [text for batch in questions for text in answer(prepare(*batch))],
    }, {"transformers": transformers.__version__, "torch": torch.__version__}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run's workdir")
    parser.add_argument("--step", help="last, best or a number")
    parser.add_argument("--root", required=True, help="folder of the run's data set")
    parser.add_argument("--questions", type=int, default=512, help="cut to whole batches (default: 512)")
    parser.add_argument("--batch", type=int, default=32, help="of both (default: 32)")
    parser.add_argument("--new-tokens", type=int, default=24, help="longest answer of both (default: 24)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seed", type=int, default=0, help="of the questions drawn and of the order of the systems")
    parser.add_argument("--core", type=int, help="the one core that both run on (default: all)")
    parser.add_argument("--worker", choices=SYSTEMS, help=argparse.SUPPRESS)
    parser.add_argument("--exported", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
