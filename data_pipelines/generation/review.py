"""The file in which a person accepts or rejects questions: CSV for a spreadsheet, or JSON Lines, by its ending."""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import DataConflict, FileExists, InvalidOption, MissingField, invalid_field
from data_pipelines.core.json_files import json_lines
from data_pipelines.core.text_files import read_rows

Verdict = Literal["accept", "reject"]
COLUMNS = ("id", "image", "caption", "question", "answer", "verdict", "comment")


def check_review_name(path: str, *, new: bool = False) -> None:
    """Raises DataError for an ending other than .csv and .jsonl, FileExists for a `new` file that exists."""
    if new and Path(path).exists():
        raise FileExists(
            f"--write-review {path}: exists and may hold verdicts; choose another name, or read it with --review"
        )
    if Path(path).suffix.lower() not in (".csv", ".jsonl"):
        raise InvalidOption(f"{path}: a review file ends in .csv or .jsonl; rename it")


def review_row(record: dict[str, Any], caption: str) -> dict[str, str]:
    """What a person needs to judge a question: its image's path, its caption, all turns of a conversation."""
    turns = [*record["turns"], {"question": record["question"], "answer": record["answer"]}]
    later = (f"\n– {before['answer']}\n{turn['question']}" for before, turn in itertools.pairwise(turns))
    question = turns[0]["question"] + "".join(later)
    row = {"id": record["id"], "image": record["image"], "caption": caption}
    return {**row, "question": question, "answer": record["answer"], "verdict": "", "comment": ""}


def write_review(path: str, rows: Sequence[dict[str, str]]) -> int:
    """Writes rows with an empty verdict; returns how many. Raises as `check_review_name` of a new file."""
    check_review_name(path, new=True)
    if path.lower().endswith(".csv"):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        # Without the mark spreadsheets take UTF-8 for an older encoding.
        write_atomically(Path(path), "\ufeff" + text.getvalue())
    else:
        write_atomically(Path(path), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def read_verdicts(path: str) -> dict[str, Verdict]:
    """Verdicts by id; rows with an empty verdict are not among them. Other columns are passed over.

    Raises:
      DataError: the file cannot be read, has no id or verdict, a verdict other than accept and reject, or two verdicts
        for one id.
    """
    check_review_name(path)
    verdicts: dict[str, Verdict] = {}
    for where, row in _rows(path):
        identity, verdict = row.get("id"), row.get("verdict", "")
        if not isinstance(identity, str) or not identity.strip():
            raise MissingField(f"{where}: has no id; keep the column 'id' as it was written")
        match str(verdict or "").strip().lower():
            case "":
                continue
            case "accept" | "reject" as word:
                if verdicts.setdefault(identity.strip(), word) != word:
                    raise DataConflict(f"{where}: {identity.strip()!r} is accepted in one row and rejected in another")
            case other:
                raise invalid_field(where, "verdict", other, "write accept, reject, or leave it empty")
    return verdicts


def _rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.lower().endswith(".jsonl"):
        yield from json_lines(path, remedy="name a review file", unique_keys=True)
        return
    # Spreadsheets of many countries save with semicolons.
    remedy = "name a review file, with its first row as it was written"
    for number, row in enumerate(read_rows(path, ("id", "verdict"), delimiters=",;\t", remedy=remedy), start=2):
        yield f"{path}: row {number}", row
