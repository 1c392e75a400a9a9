"""Writes questions and answers from captions with a language model behind an OpenAI-compatible endpoint.

    python -m data_pipelines.generate_qa --captions captions.jsonl --out generated \\
        --endpoint http://localhost:11434/v1 --model llama3.1:8b --kinds open,closed,choice

Run the same command again after an interruption to resume. docs/GENERATE_QA.md has the whole of it.
The captions go to the endpoint: send none that may not leave your machine to one that is not on it.
"""

import argparse
import asyncio
import functools
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.core.signals import end_at_once

if __name__ == "__main__":
    end_at_once()

from tqdm import tqdm

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.command_line import made_folder, run_command
from data_pipelines.core.errors import MissingOption, OptionConflict
from data_pipelines.core.json_files import json_lines
from data_pipelines.core.paths import local_path
from data_pipelines.generation.answers import AnswerStore, Request
from data_pipelines.generation.captions import Caption, PreparedCaptions, read_captions, read_prepared, with_files
from data_pipelines.generation.client import Endpoint, Traffic, ask
from data_pipelines.generation.filters import Duplicates, Filters, read_pathologies
from data_pipelines.generation.options import check_lengths, endpoint_of, parser
from data_pipelines.generation.review import check_review_name, read_verdicts, review_row, write_review
from data_pipelines.generation.selection import QUESTIONS, RequestsOf, Selection, Tally
from data_pipelines.generation.summary import as_text, summarise
from data_pipelines.generation.templates import Kind, PromptTemplate, load_templates, render
from data_pipelines.generation.words import check_language

logger = logging.getLogger(__name__)

ANSWERS = "answers.jsonl"
FAILED = "failed.jsonl"
SUMMARY = "summary.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line.

    Returns:
      The exit status, see `core/exit_codes.py`; 1 when requests failed, which the same command tries again.
    """
    said = "interrupted; all answers so far are kept, run the same command again to resume"
    return run_command(parser(__doc__ or ""), _work, argv, interrupted=said)


def _work(options: argparse.Namespace) -> int:
    check_lengths(options)
    endpoint = endpoint_of(
        options, requests_per_minute=options.requests_per_minute, stop_after_failures=options.stop_after_failures
    )
    templates = load_templates(options.kinds, options.templates)
    filters = _filters(options)
    verdicts = read_verdicts(options.review) if options.review else {}
    if options.write_review:
        check_review_name(options.write_review, new=True)
    duplicates = (
        None if "duplicate" in filters.skipped else Duplicates(options.duplicate_scope, options.duplicate_threshold)
    )
    captions, prepared = _captions(options)
    used, left_out = _usable(captions, filters)
    folder = made_folder(local_path(options.out, what="--out"))
    if prepared is not None:
        used = with_files(used, prepared, folder)
    requests_of = functools.partial(_requests, options, templates)
    traffic = Traffic()
    with AnswerStore(str(folder / ANSWERS)) as store:
        if endpoint is None and not len(store):
            raise MissingOption(f"{folder}: holds no answers to filter; ask for some with --endpoint URL")
        try:
            answered_before = _ask_missing(used, requests_of, store, endpoint, traffic)
        finally:
            if endpoint is not None:
                rows = ({"caption_id": r.caption_id, "kind": r.kind, "reason": why} for r, why in traffic.failures)
                write_atomically(folder / FAILED, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        selection = Selection(
            filters, duplicates, verdicts, options.only_accepted, options.split, options.language, store
        )
        judged = tqdm(used, desc="judging", unit="caption", disable=None, leave=False)
        tally = selection.write(folder, judged, requests_of)
    if options.write_review:
        _write_review(options.write_review, folder / QUESTIONS, {c.id: c.caption for c in captions}, verdicts.keys())
    summary = summarise(options, templates, len(captions), left_out, answered_before, traffic, tally)
    _report(options, folder, summary, traffic, tally)
    return 1 if traffic.failures else 0


def _captions(options: argparse.Namespace) -> tuple[list[Caption], PreparedCaptions | None]:
    """What --captions names, and the prepared data set that they are of, whose images are no files yet."""
    if not Path(options.captions).is_dir():
        if options.caption_splits:
            raise OptionConflict(
                f"--caption-splits {','.join(options.caption_splits)}: are of a prepared data set; leave it out"
            )
        return read_captions(options.captions)[: options.limit], None
    if Path(options.out).resolve() == Path(options.captions).resolve():
        raise OptionConflict(f"--out {options.out}: is the prepared data set itself; choose another folder")
    read = read_prepared(options.captions, options.caption_splits)
    return read.captions[: options.limit], read


def _requests(
    options: argparse.Namespace, templates: dict[Kind, PromptTemplate], caption: Caption
) -> Iterator[Request]:
    """What is requested for a caption: one answer a kind."""
    named = ("model", "seed", "temperature", "max_tokens", "json_mode")
    of_model: dict[str, Any] = {name: getattr(options, name) for name in named}
    for kind, template in templates.items():
        count = options.turns if kind == "conversation" else options.pairs
        system, user = render(template, caption, count=count, language=options.language, seed=options.seed)
        of_template: dict[str, Any] = {"template": template.name, "template_sha256": template.sha256}
        yield Request(caption_id=caption.id, kind=kind, system=system, user=user, **of_model, **of_template)


def _ask_missing(
    captions: Sequence[Caption],
    requests_of: RequestsOf,
    store: AnswerStore,
    endpoint: Endpoint | None,
    traffic: Traffic,
) -> int:
    """Sends every request that has no stored answer, if there is an endpoint; returns how many had one."""
    stored = Counter(request.key in store for caption in captions for request in requests_of(caption))
    missing = (r for caption in captions for r in requests_of(caption) if r.key not in store)
    if endpoint is not None and stored[False]:
        with tqdm(total=stored.total(), initial=stored[True], desc="asking", unit="request", disable=None) as bar:
            asyncio.run(ask(missing, endpoint, store, traffic, bar))
    return stored[True]


def _usable(captions: Sequence[Caption], filters: Filters) -> tuple[list[Caption], Counter[str]]:
    faults = [filters.caption_fault(c) for c in tqdm(captions, desc="captions", disable=None, leave=False)]
    used = [caption for caption, fault in zip(captions, faults, strict=True) if fault is None]
    left_out = Counter(fault for fault in faults if fault is not None)
    if left_out:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
        logger.warning("nothing is asked of %d of %d captions: %s", left_out.total(), len(captions), reasons)
    return used, left_out


def _report(options: argparse.Namespace, folder: Path, summary: dict[str, Any], traffic: Traffic, tally: Tally) -> None:
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    if tally.unknown_verdicts:
        logger.warning(
            "%s: %d of its ids are of no question of this run, the first %s; it may be of another model, seed or file",
            options.review, len(tally.unknown_verdicts), tally.unknown_verdicts[0],
        )  # fmt: skip
    if traffic.failures:
        logger.warning(
            "%d requests failed, the last by: %s; %s lists them, and the same command tries them again",
            len(traffic.failures), traffic.failures[-1][1], folder / FAILED,
        )  # fmt: skip
    print(as_text(summary))
    print(f"{tally.kept.total()} questions in {folder / QUESTIONS}")


def _write_review(path: str, questions: Path, captions: dict[str, str], judged: Any) -> None:
    """The questions that nobody has judged yet."""
    records = (record for _, record in json_lines(str(questions)))
    rows = [review_row(r, captions[r["generated"]["caption_id"]]) for r in records if r["id"] not in judged]
    print(f"{write_review(path, rows)} questions to judge in {path}: write accept or reject into the column verdict")


def _filters(options: argparse.Namespace) -> Filters:
    skipped = frozenset(options.skip_filter)
    if "language" not in skipped:
        check_language(options.language)
    terms = read_pathologies(options.pathologies) if options.pathologies else None
    names = ("pathology_scope", "language", "caption_words", "question_words", "answer_words")
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    return Filters(skipped=skipped, terms=terms, **given)


if __name__ == "__main__":
    sys.exit(main())
