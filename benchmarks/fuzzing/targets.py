"""What is damaged, the command that reads it, and what must hold where the command accepts it.

A target's inputs are made once, in a folder `in`; each case damages one of its files and runs the command beside it.
"""

import contextlib
import functools
import importlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from published_layouts import LAYOUTS

from data_pipelines.sources.registry import DRAWN

# Figures that no damage to answers may raise.
_RIGHT = ("accuracy", "exact_match", "recall", "macro_recall")


@dataclass(frozen=True)
class Read:
    """What a command left of its inputs: a folder with `in` and `out`, its standard output and standard error."""

    folder: Path
    out: str
    err: str = ""


def _anything(damaged: Read, undamaged: Read) -> str:
    return ""


@dataclass(frozen=True)
class Target:
    """A command and the files that it reads.

    Attributes:
      make: writes the inputs into a folder.
      command: the module and its arguments, of paths relative to the case's folder (`in` and `out`).
      check: of the damaged and the undamaged inputs: what is wrong, or "" where all is well.
      damaged: patterns of the files that are damaged.
      share: how often it is drawn, beside the others.
    """

    name: str
    make: Callable[[Path], None]
    command: Sequence[str]
    check: Callable[[Read, Read], str] = _anything
    damaged: Sequence[str] = ("**/*",)
    share: float = 1.0


def files(target: Target, folder: Path) -> list[str]:
    """The files that may be damaged, in order."""
    found = {path for pattern in target.damaged for path in folder.glob(pattern) if path.is_file()}
    return sorted(str(path.relative_to(folder)) for path in found)


def gradient(height: int = 48, width: int = 64) -> np.ndarray:
    """A picture in which every place has its own value (H, W)."""
    return (np.add.outer(np.arange(height) * 3, np.arange(width) * 2) % 256).astype(np.uint8)


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def own_data(folder: Path) -> None:
    """The `jsonl` layout, with an image of every format and every field of a record."""
    import nibabel

    picture = Image.fromarray(gradient())
    for name in ("a.png", "b.jpg", "c.tif", "d.webp", "e.bmp", "f.gif"):
        picture.save(folder / name)
    Image.fromarray(gradient().astype(np.uint16) * 16).save(folder / "g.png")
    Image.fromarray(gradient().astype(np.float32) * 3.5).save(folder / "h.tif")
    volume = np.arange(12 * 10 * 6, dtype=np.int16).reshape(12, 10, 6)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), folder / "i.nii.gz")
    dicom(folder / "j.dcm")
    names = [
        "a.png",
        "b.jpg",
        "c.tif",
        "d.webp",
        "e.bmp",
        "f.gif",
        "g.png",
        "h.tif",
        "i.nii.gz#axis=2,slice=3",
        "j.dcm",
    ]
    region = {"box": [2, 2, 6, 5], "label": "Liver"}
    rows = [
        {
            "id": index, "image": name, "question": "Is it CT?", "answer": "yes", "answer_type": "closed",
            "language": "en", "modality": "CT", "content_type": "modality", "regions": [region],
        }
        for index, name in enumerate(names)
    ]  # fmt: skip
    write_lines(folder / "train.jsonl", rows)


def dicom(path: Path) -> None:
    """A small CT slice with explicit lengths, by pydicom."""
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    scan = pydicom.Dataset()
    scan.file_meta = FileMetaDataset()
    scan.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    scan.file_meta.MediaStorageSOPClassUID = CTImageStorage
    scan.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    scan.SOPClassUID, scan.SOPInstanceUID = CTImageStorage, scan.file_meta.MediaStorageSOPInstanceUID
    scan.Modality, scan.PhotometricInterpretation = "CT", "MONOCHROME2"
    scan.SamplesPerPixel, scan.PixelRepresentation = 1, 1
    scan.Rows, scan.Columns = 24, 32
    scan.BitsAllocated, scan.BitsStored, scan.HighBit = 16, 12, 11
    scan.RescaleIntercept, scan.RescaleSlope = "-1024", "1"
    scan.WindowCenter, scan.WindowWidth = "40", "400"
    scan.PixelPaddingValue = -2000
    scan.PixelData = (np.arange(24 * 32, dtype=np.int16) % 2000).tobytes()
    scan.save_as(path, enforce_file_format=True)


def scored_answers(folder: Path) -> None:
    """References of every kind, and answers of which three in four are right."""
    words = ["yes", "no", "left lung", "2", "a cyst in the liver"]
    references = [
        {
            "id": n, "question": f"Question {n}?", "answer": words[n % 5], "image": f"{n // 2}.png",
            "answer_type": "closed" if n % 5 < 2 else "open",
        }
        for n in range(40)
    ]  # fmt: skip
    write_lines(folder / "references.jsonl", references)
    answers = [{"id": row["id"], "answer": row["answer"] if row["id"] % 4 else "something else"} for row in references]
    write_lines(folder / "answers.jsonl", answers)


def no_score_rose(damaged: Read, undamaged: Read) -> str:
    """Accuracy, exact match and recall are no higher, and over no fewer questions, than of the undamaged answers."""
    before, after = (_figures(read.folder) for read in (undamaged, damaged))
    for name, (value, count) in before.items():
        if name not in after:
            return f"the row of {name} is gone"
        if after[name][1] < count:
            return f"{name} is over {after[name][1]} questions in place of {count}"
        if after[name][0] > value + 1e-9:
            return f"{name} rose from {value} to {after[name][0]}"
    return ""


def _figures(folder: Path, file: str = "scores.json") -> dict[str, tuple[float, int]]:
    rows = json.loads((folder / "out" / file).read_text())
    return {
        f"{row['subset']}/{row['condition']}/{row['metric']}": (row["value"], row["n"])
        for row in rows
        if row["metric"] in _RIGHT and row["value"] is not None
    }


def same_answer(damaged: Read, undamaged: Read) -> str:
    """What decides an answer is under a checksum: whatever was accepted answers as before."""
    answers = [json.loads(text.strip().splitlines()[-1]) for text in (undamaged.out, damaged.out)]
    parts = [{key: answer[key] for key in ("answer", "confidence")} for answer in answers]
    return "" if parts[0] == parts[1] else f"{parts[0]} became {parts[1]}"


def same_unless_said(damaged: Read, undamaged: Read) -> str:
    """The command prints what it prints of undamaged files, or says what it left out."""
    if damaged.out == undamaged.out or "left out" in damaged.err:
        return ""
    return f"said {damaged.out[-200:]!r} in place of {undamaged.out[-200:]!r}"


def _laid_out(name: str, folder: Path) -> None:
    """A published data set in miniature."""
    LAYOUTS[name].lay_out(folder)


def prepared_set(folder: Path) -> None:
    """What `prepare` writes of `own_data`."""
    with tempfile.TemporaryDirectory() as source:
        own_data(Path(source))
        _run("data_pipelines.prepare", "jsonl", "--source", source, "--out", folder / "set", "--workers", "1")


def data_targets() -> list[Target]:
    """Reading data sets."""
    prepare = ("data_pipelines.prepare", "jsonl", "--source", "in", "--out", "out", "--workers", "1")
    inspect = ("data_pipelines.inspect", "in/set", "--out", "out")
    return [
        Target("prepare jsonl", own_data, prepare, share=3),
        Target("prepare jsonl, allow missing", own_data, (*prepare, "--allow-missing"), share=3),
        *(
            Target(
                f"prepare {name}",
                functools.partial(_laid_out, name),
                ("data_pipelines.prepare", name, *prepare[2:], "--splits", layout.split, "--allow-missing"),
                share=0.6,
            )
            for name, layout in LAYOUTS.items()
            if name not in ("jsonl", *DRAWN)
        ),
        Target("inspect prepared", prepared_set, inspect, same_unless_said, share=0.5),
    ]


def always_yes(image: object, question: str, boxes: object) -> tuple[str, float]:
    """A model for the trust benchmark."""
    return "yes", 0.5 + len(question) % 50 / 100


def trust_answers(folder: Path) -> None:
    """A run of the trust benchmark over `own_data`, by a model that answers yes."""
    with tempfile.TemporaryDirectory() as root:
        own_data(Path(root))
        boxes = folder / "boxes.jsonl"
        _run("rllava_jax.trust", "boxes", "--data", "jsonl", "--root", root, "--split", "train", "--out", boxes)
        _run(
            "rllava_jax.trust", "run", "--adapter", "fuzzing.targets:always_yes", "--boxes", boxes, "--root", root,
            "--out", folder / "run", "--bootstrap", "0", "--gallery", "1",
        )  # fmt: skip
        boxes.unlink()


def trust_is_as_before(damaged: Read, undamaged: Read) -> str:
    """No figure of the benchmark changes unless an answer did, and none of accuracy rises."""
    before, after = (_figures(read.folder, "metrics.json") for read in (undamaged, damaged))
    risen = [name for name in before if name not in after or after[name][0] > before[name][0] + 1e-9]
    return f"{risen[0]} rose, or is gone" if risen else ""


def answer_targets() -> list[Target]:
    """Scoring answers."""
    trust = ("rllava_jax.trust", "score", "--answers", "in/run", "--out", "out", "--bootstrap", "0")
    score = (
        "rllava_jax.evaluate", "--predictions", "in/answers.jsonl", "--references", "in/references.jsonl",
        "--out", "out", "--bootstrap", "0",
    )  # fmt: skip
    return [
        Target("score answers", scored_answers, score, no_score_rose, ("answers.jsonl",), share=3),
        Target("score references", scored_answers, score, damaged=("references.jsonl",)),
        Target("trust score", trust_answers, trust, trust_is_as_before, ("run/*.json", "run/*.jsonl")),
    ]


def run_targets(run: Path) -> list[Target]:
    """What reads a trained run, which is slower: seconds a case."""
    ask = (
        "rllava_jax.predict", "--checkpoint", "in", "--image", "in/image.png", "--question", "What is marked?",
        "--box", "4,5,20,12", "--json",
    )  # fmt: skip
    decides = ("checkpoints/**/*", "config.json", "tokenizer.model")
    return [
        Target("predict, checkpoint", functools.partial(_checkpoint, run), ask, same_answer, decides, share=0.3),
        Target("predict, image", functools.partial(_checkpoint, run), ask, damaged=("image.png",), share=0.1),
        Target("import", functools.partial(_exported, run), ("rllava_jax.convert", "import", "in", "out"), share=0.5),
    ]


def _checkpoint(run: Path, folder: Path) -> None:
    """The run's last checkpoint without what resuming alone reads, and an image to ask about."""
    steps = [path for path in (run / "checkpoints").iterdir() if path.name.isdigit()]
    step = max(steps, key=lambda path: int(path.name))
    unread = shutil.ignore_patterns("training", "data", "metrics")
    shutil.copytree(step, folder / "checkpoints" / step.name, ignore=unread)
    for name in ("config.json", "tokenizer.model"):
        shutil.copy(run / name, folder)
    Image.fromarray(gradient()).save(folder / "image.png")


def _exported(run: Path, folder: Path) -> None:
    _run("rllava_jax.convert", "export", run, folder / "exported", "--plain")
    for path in list((folder / "exported").iterdir()):
        path.rename(folder / path.name)
    (folder / "exported").rmdir()


def _run(module: str, *arguments: str | Path) -> None:
    """A command, which must succeed."""
    with contextlib.redirect_stdout(io.StringIO()):
        status = importlib.import_module(module).main([str(argument) for argument in arguments])
    if status:
        raise RuntimeError(f"{module} {arguments}: status {status}")


def image_outside(folder: Path) -> None:
    """A picture that no command may read."""
    folder.mkdir()
    Image.fromarray(gradient()).save(folder / "private.png")
