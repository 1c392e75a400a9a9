"""Scores predictions by a named protocol, with 95 % intervals by image: anyone's, or a stored model's.

    python -m rllava_jax.evaluate --predictions answers.jsonl --data vqa_rad --root data/vqa_rad
    python -m rllava_jax.evaluate --predictions answers.jsonl --protocol vqa_rad --root data/vqa_rad --out scores
    python -m rllava_jax.evaluate --predictions answers.jsonl --references questions.jsonl --against others.jsonl
    python -m rllava_jax.evaluate --predictions runs/demo/eval/500/predictions.jsonl
    python -m rllava_jax.evaluate --checkpoint runs/slake_tiny --controls --out runs/slake_tiny_controls
    python -m rllava_jax.evaluate --compare runs/first runs/second --out compared

A line of predictions is {"id": "vqa_rad/12", "answer": "yes"}; docs/EVALUATION.md has the formats, the protocols, and
what becomes of a bad line. The fourth form reads questions and references from a run's own file; the fifth asks the
model, with its controls; the last puts two runs side by side, as compare.html and compare.json in the folder --out.
"""

import argparse
import dataclasses
import gc
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rllava_jax.runtime import process_memory

if __name__ == "__main__":
    process_memory.start("rllava_jax.evaluate")

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import run_command, words
from data_pipelines.core.errors import (
    DataError,
    MalformedFile,
    MissingOption,
    OptionConflict,
    UnknownName,
    UnwritableFile,
)
from data_pipelines.core.paths import path_of
from data_pipelines.records import FAMILIES
from data_pipelines.sources.reading_options import reading_of
from data_pipelines.sources.registry import DRAWN
from rllava_jax.evaluation import judge, paired, references, scoring
from rllava_jax.evaluation.answer_files import Findings, read_answers
from rllava_jax.evaluation.evaluate_options import fill_in, make_parser
from rllava_jax.evaluation.matching import MISSING, match
from rllava_jax.evaluation.predictions import Response, read_predictions
from rllava_jax.evaluation.protocols import registry
from rllava_jax.evaluation.protocols.protocol import Protocol
from rllava_jax.evaluation.results import json_lines, markdown_table, rows_as_json

# Of a question and what was answered, in scored.jsonl.
_SCORED = (
    "id", "condition", "image_id", "question", "answer", "accepted", "answer_type", "family", "predictions",
)  # fmt: skip

_Scored = list[scoring.Scored[Response]]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status; see `core/exit_codes.py`."""
    return run_command(make_parser(__doc__ or ""), _work, argv, level=logging.INFO)


def _work(options: argparse.Namespace) -> None:
    if options.list:
        return print(registry.description(), end="")
    if options.checkpoint:
        from rllava_jax.evaluation import run_checkpoint  # brings JAX, which scoring a file does not need
        from rllava_jax.report.run_report import write_report

        return run_checkpoint.run(options, write_report)
    fill_in(options)
    if options.compare:
        return _compare_runs(options)
    gc.disable()  # scoring makes many objects and no cycles; looking for them would take a quarter of its time
    try:
        _score(options)
    finally:
        gc.enable()


def _compare_runs(options: argparse.Namespace) -> None:
    if not options.out:
        raise MissingOption("--out: is missing; name a folder for compare.html and compare.json")
    from rllava_jax import compare

    first, second = options.compare
    compare.compare_runs(first, second, f"{options.out}/compare.html", bootstrap=options.bootstrap, seed=options.seed)


def _score(options: argparse.Namespace) -> None:
    protocol = registry.PROTOCOLS.get(options.protocol, setting="--protocol")
    _check_read(options, protocol)
    marker = judge.judge_of(options)
    asked = _references(options, protocol)
    protocol = _of_content_types(protocol, asked, words(options.content_types or ""))
    _check_complete(protocol, len(asked), options.allow_missing, what="the copy of the data set has", lacking=0)
    ours, findings = _scoring(options.predictions, asked, protocol, options.allow_missing)
    theirs = _scoring(options.against, asked, protocol, options.allow_missing)[0] if options.against else None
    about: dict[str, Any] = {"found": {what: len(names) for what, names in findings.items()}}
    if marker is not None:
        judging = protocol
        ours, protocol, about["judge"] = _judged(marker, ours, judging)
        theirs = _judged(marker, theirs, judging)[0] if theirs is not None else None
    rows = scoring.rows(ours, protocol, bootstrap=options.bootstrap, seed=options.seed)
    print(f"{protocol.name}: {options.predictions}")
    print(markdown_table(rows, conditions=()), end="")
    comparison = _compare(ours, theirs, protocol, options) if theirs is not None else []
    if options.out:
        try:
            _write(path_of(options.out), options, protocol, ours, rows, comparison, about)
        except OSError as error:
            raise UnwritableFile(f"--out {options.out}: cannot be written ({error.strerror}); name a folder") from None


def _check_read(options: argparse.Namespace, protocol: Protocol) -> None:
    """Refuses what neither the protocol nor the place of the references reads."""
    if not (protocol.dataset or options.data):
        for name in ("split", "languages", "families", "boxes", "orientation"):
            if getattr(options, name):
                raise OptionConflict(f"--{name}: chooses questions of --data, which is not given; leave it out")
    if protocol.expected is None and options.allow_missing:
        raise OptionConflict(
            f"--allow-missing: --protocol {protocol.name} expects no number of questions; leave it out (what the "
            "predictions lack counts as wrong)"
        )


def _of_content_types(protocol: Protocol, asked: Sequence[Response], wanted: Sequence[str]) -> Protocol:
    """The protocol, of the questions of these content types alone, letter case aside; of all where none is named."""
    if not wanted:
        return protocol
    if protocol.expected is not None:
        raise OptionConflict(
            f"--content-types: --protocol {protocol.name} is of every question of its split; leave it out, and read "
            "the rows content_type=…, or use strict"
        )
    known = {item.content_type.casefold(): item.content_type for item in asked if item.content_type}
    if unknown := [name for name in wanted if name.casefold() not in known]:
        there = ", ".join(sorted(known.values())) or "none: no question names one"
        raise UnknownName(f"--content-types: no question is of {unknown[0]!r}; there are {there}")
    chosen = {name.casefold() for name in wanted}
    return dataclasses.replace(
        protocol, counts=lambda item: item.content_type.casefold() in chosen and protocol.counts(item)
    )


def _references(options: argparse.Namespace, protocol: Protocol) -> list[Response]:
    """The questions that are scored against, from where the options and the protocol say."""
    if protocol.dataset:
        return _published(options, protocol)
    if options.references:
        if options.data or options.root:
            raise OptionConflict("--references: and --data say twice what to score against; give one of them")
        return references.from_file(path_of(options.references))
    if not options.data:
        if options.root:
            raise OptionConflict("--root: without --data; name the data set, e.g. --data vqa_rad")
        return _of_own_file(options.predictions)
    if not options.root and options.data not in DRAWN:
        raise MissingOption(f"--data {options.data}: needs --root, the folder of its files")
    return references.from_data(
        options.data, options.root, options.split or "test",
        languages=words(options.languages or "en"), families=_families(options.families), seed=options.seed,
        reading=reading_of(options),
    )  # fmt: skip


def _published(options: argparse.Namespace, protocol: Protocol) -> list[Response]:
    fixed = {"split": protocol.split, "languages": ",".join(protocol.languages), "families": "vqa"}
    for name, value in fixed.items():
        if getattr(options, name) not in (None, value):
            raise OptionConflict(
                f"--{name} {getattr(options, name)}: --protocol {protocol.name} is {value}; leave it out, or use strict"
            )
    own = protocol.dataset
    if options.references or options.data not in (None, own, f"{own}_hf", "prepared"):
        raise OptionConflict(
            f"--protocol {protocol.name}: is of {own}'s published test split; give --root and, for another copy, "
            f"--data {own}_hf or prepared, or score other questions with --protocol strict"
        )
    if not options.root:
        raise MissingOption(f"--protocol {protocol.name}: needs --root, the folder of {own}'s files")
    found = references.from_data(
        options.data or own, options.root, protocol.split, languages=protocol.languages, families=("vqa",), seed=0,
        reading=reading_of(options),
    )  # fmt: skip
    if others := sorted({item.dataset for item in found} - {own, f"{own}_hf"}):
        raise UnknownName(f"{options.root}: holds {', '.join(others)}, and --protocol {protocol.name} is of {own}")
    return found


def _of_own_file(name: str) -> list[Response]:
    try:
        return references.from_predictions(read_predictions(name))
    except DataError as error:
        raise MalformedFile(
            f"{error} (without --data or --references the file is to be a run's own predictions.jsonl; say what to "
            "score against)"
        ) from None


def _scoring(name: str, asked: Sequence[Response], protocol: Protocol, allow_missing: int) -> tuple[_Scored, Findings]:
    """Reads and scores a file, and prints what was odd about it."""
    file = read_answers(path_of(name), lists=protocol.runs > 1)
    items = match(asked, file, protocol, file.findings)
    for line in file.findings.lines():
        print(f"note: {name}: {line}", file=sys.stderr)
    if MISSING in file.findings:
        for condition in file.conditions:
            held = [item for item in items if item.condition == condition]
            lacking = sum((item.id, item.condition) not in file.answers for item in held)
            _check_complete(protocol, len(held) - lacking, allow_missing, what=f"{name} answers", lacking=lacking)
    return scoring.scored(items, protocol), file.findings


def _judged(marker: judge.Judge, ours: _Scored, protocol: Protocol) -> tuple[_Scored, Protocol, dict[str, Any]]:
    """The file with the judge's marks among its scores; prints how many it marked, and how they agree with ours."""
    items = [s.answer for s in ours]
    verdicts = judge.judge_items(marker, items)
    protocol = judge.with_judge(protocol, verdicts)
    about = judge.summary(marker, items, verdicts)
    print(judge.as_text(about), file=sys.stderr)
    return scoring.scored(items, protocol), protocol, about


def _check_complete(protocol: Protocol, found: int, allowed: int, *, what: str, lacking: int) -> None:
    """Whether a published split is whole, or lacks no more than was allowed."""
    if protocol.expected is None or 0 <= protocol.expected - found <= allowed:
        return
    if found > protocol.expected:
        remedy = "is it another version?"
    else:
        number = protocol.expected - found
        counted = "they count as wrong" if lacking else "they are not scored"
        remedy = f"complete it, or say --allow-missing {number} ({counted})"
    raise DataError(
        f"{what} {found:,} of the {protocol.expected:,} questions of --protocol {protocol.name}; {remedy}",
        code="data.incomplete",
    )


def _compare(
    first: _Scored, second: _Scored, protocol: Protocol, options: argparse.Namespace
) -> list[paired.ComparisonRow]:
    only_first, only_second = paired.unmatched(first, second)
    for name, only in ((options.predictions, only_first), (options.against, only_second)):
        if only:
            print(f"note: {len(only):,} questions are asked under these conditions in {name} alone", file=sys.stderr)
    rows = paired.comparison_rows(first, second, protocol.metrics_of, resamples=options.bootstrap, seed=options.seed)
    print(f"\nfirst {options.predictions}, second {options.against}")
    print(paired.markdown(rows), end="")
    return rows


def _write(
    folder: Path,
    options: argparse.Namespace,
    protocol: Protocol,
    ours: _Scored,
    rows: Sequence[Any],
    comparison: Sequence[Any],
    about: dict[str, Any],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scored = ({**{name: getattr(s.answer, name) for name in _SCORED}, "scores": s.scores} for s in ours)
    write_atomically(folder / "scores.json", rows_as_json(rows))
    write_atomically(folder / "scored.jsonl", json_lines(scored))
    if options.against:
        write_atomically(folder / "comparison.json", rows_as_json(comparison))
    content = {
        "protocol": protocol.name,
        "source": protocol.source,
        "faults": protocol.faults,
        "predictions": str(options.predictions),
        "against": options.against,
        "references": options.references or options.data or protocol.dataset or "those of the predictions' file",
        "content_types": list(words(options.content_types or "")),
        "questions": len(ours),
        "bootstrap": options.bootstrap,
        "seed": options.seed,
        **about,
    }
    write_atomically(folder / "about.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _families(text: str | None) -> tuple[str, ...]:
    families = words(text or "vqa")
    for family in families:
        if family not in FAMILIES:
            raise UnknownName(f"--families: no family {family!r}; choose from {', '.join(FAMILIES)}")
    return families


if __name__ == "__main__":
    sys.exit(main())
