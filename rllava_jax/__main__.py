"""rllava COMMAND …: all commands under one name, each the same as `python -m MODULE …`.

{commands}

`rllava COMMAND --help` shows a command's options. Research use, not a medical device.
"""

import importlib
import sys
from collections.abc import Sequence

# Command → its module, and what it does. Nothing is imported before a command is chosen.
COMMANDS = {
    "train": ("rllava_jax.main", "train on a data set, evaluate what was trained, or plan for other hardware"),
    "predict": ("rllava_jax.predict", "answer a question about an image, with or without marked regions"),
    "evaluate": ("rllava_jax.evaluate", "score predictions by a named protocol, or evaluate a checkpoint"),
    "trust": ("rllava_jax.trust", "the region trust benchmark: boxes that are right, missing, or wrong by degrees"),
    "calibrate": ("rllava_jax.calibrate", "fit a checkpoint's confidence to how often it is right"),
    "compare": ("rllava_jax.compare", "put two runs side by side"),
    "convert": ("rllava_jax.convert", "import published checkpoints, export Hugging Face folders"),
    "prepare": ("data_pipelines.prepare", "turn a published data set into a prepared one"),
    "inspect": ("data_pipelines.inspect", "show what is in data sets"),
    "generate-qa": ("data_pipelines.generate_qa", "write questions and answers from captions with a language model"),
    "scaling": ("rllava_jax.scaling", "fit a scaling law to finished runs"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names. Returns the exit status."""
    name, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        listed = "\n".join(f"    {command:<13}{about}" for command, (_, about) in COMMANDS.items())
        print((__doc__ or "").format(commands=listed), end="")
        return 0
    if name not in COMMANDS:
        print(f"error: {name}: invalid command; choose from {', '.join(COMMANDS)} [option.unknown]", file=sys.stderr)
        return 2
    module = COMMANDS[name][0]
    if argv is None:
        from rllava_jax.runtime import process_memory

        process_memory.start(module)
    return importlib.import_module(module).main(arguments)


if __name__ == "__main__":
    sys.exit(main())
