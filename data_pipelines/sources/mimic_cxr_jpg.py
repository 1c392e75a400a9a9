"""MIMIC-CXR-JPG: chest films with labels read from their reports, and the reports (Johnson et al. 2019).

Patient, study and image numbers lead back to credentialed records, so none of them enters a record, a log or a report:
an image is named by a hash of its number, and its path, which holds them, is in no message. What is said of each film:
  - findings and impression of its study's report, as one caption (task "caption");
  - a closed question for each of CheXpert's labels that is 1 (yes) or 0 (no). Uncertain labels (-1) and labels that the
    report does not mention (blank) are asked nothing.
`labels` holds the findings that are 1.
"""

import functools
import hashlib
import logging
import os
import re
from itertools import zip_longest
from pathlib import Path

from data_pipelines.core.data_root import DataRoot, NoPlainFile, OutsideRoot
from data_pipelines.core.errors import InvalidValue, UnreadableFile, invalid_field
from data_pipelines.core.json_files import text_field
from data_pipelines.core.text_files import numbered_rows, read_rows
from data_pipelines.records import Count, DataCard, Source, SourceSplit, UnnamedFile
from data_pipelines.sources.split_builder import SplitBuilder, begin_split

logger = logging.getLogger(__name__)

CARD = DataCard(
    name="mimic_cxr_jpg",
    title="MIMIC-CXR-JPG 2.x",
    about="377,110 chest films of 227,827 studies, with labels that CheXpert's labeller read from the reports, and, "
    "where MIMIC-CXR's reports are there, those.",
    paper="Johnson et al. 2019, arXiv 1901.07042; MIMIC-CXR: Scientific Data 6, 317 (2019)",
    url="https://physionet.org/content/mimic-cxr-jpg/",
    licence="PhysioNet Credentialed Health Data License: training in human research and a signed agreement; the data, "
    "and what is made of them, may not be passed on",
    layout="files/p10/p10000032/s50414267/*.jpg, mimic-cxr-2.0.0-split.csv.gz, -chexpert.csv.gz and -metadata.csv.gz "
    "(also unpacked, .csv); for captions MIMIC-CXR's mimic-cxr-reports.zip unpacked to mimic-cxr-reports/, or its "
    "reports beside the studies' folders",
    # How many questions there are depends on the labels and on the reports being there.
    splits={"train": Count(images=368960), "validate": Count(images=2991), "test": Count(images=5159)},
    traps=(
        "Ids are the first 16 digits of a SHA-256 hash of the image's number: stable, and not secret, since whoever "
        "holds the credentialed files can compute them. Messages name images by them, never by their paths.",
        "Labels and report describe the study: its frontal and lateral film share them, whether or not the film shows "
        "the finding.",
        "A label of 0 is a negation in the report; a blank is a finding not mentioned, which is not the same.",
        "Labels were read by a program; NegBio's, in a file of their own, are not read here.",
        "Reports compare with earlier films, which the model does not see. A sentence with a mask (___, for a name or "
        "a date) is left out; most such comparisons and notes of telephone calls go with it.",
        "Reports without a section for findings or impression give no caption.",
        "The published split divides by patient; a split of one's own must too.",
    ),
)

_FILES = "mimic-cxr-2.0.0-{}.csv.gz"
# CheXpert's columns but "No Finding", and how they are asked for.
_ASKED = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Enlarged Cardiomediastinum": "an enlarged cardiomediastinum",
    "Fracture": "a fracture",
    "Lung Lesion": "a lung lesion",
    "Lung Opacity": "a lung opacity",
    "Pleural Effusion": "a pleural effusion",
    "Pleural Other": "a pleural abnormality other than an effusion",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "a pneumothorax",
    "Support Devices": "support devices",
}
_HEADING = re.compile(r"^[ \t]*([A-Z][A-Z /,()&-]+):", re.MULTILINE)
# Some reports head their findings by the examination: "PA AND LATERAL VIEWS OF THE CHEST:".
_FINDINGS = re.compile(r"FINDING|CHEST|VIEWS?\b|PORTABLE|\bLATERAL\b")
_IMPRESSION = re.compile(r"IMPRESSION|CONCLUSION")
_OTHER = re.compile(r"EXAM|INDICATION|HISTORY|COMPARISON|TECHNIQUE|REASON|STUDY|PROCEDURE")
_MASK = re.compile(r"_{2,}")


def load(root: str, split: str) -> SourceSplit:
    """A caption and closed questions for each film, as the top of the file says.

    Left out, counted and named (by hash) in a logged warning: films that are not in the folder, and, where there are
    reports, captions of films whose report is missing or has neither findings nor impression.

    Raises:
      DataError: no such folder or split; a file that is missing or is not CSV.
      MalformedRows: rows without a number, or with a label that is not 1, 0, -1 or blank.
    """
    found = begin_split(CARD, root, split)
    labels = _labels(os.path.join(root, _FILES.format("chexpert")), found)
    metadata = read_rows(os.path.join(root, _FILES.format("metadata")), ("dicom_id", "ViewPosition"))
    views = {row["dicom_id"]: row["ViewPosition"].strip() for row in metadata}  # e.g. "PA", "LATERAL"
    reports = _reports_folder(root)
    # Films of one study follow each other, and share its report.
    caption_of = functools.lru_cache(maxsize=1)(functools.partial(_caption, found.files, reports))

    def take(where: str, row: dict[str, str]) -> None:
        if row["split"] not in CARD.splits:
            raise invalid_field(where, "split", row["split"], f"expected one of {', '.join(CARD.splits)}")
        if row["split"] != split:
            return
        dicom, subject, study = (text_field(row, field, where) for field in ("dicom_id", "subject_id", "study_id"))
        subject, study = f"p{subject}", f"s{study}"
        name = hashed_name(dicom)
        file = os.path.join(root, "files", subject[:3], subject, study, f"{dicom}.jpg")
        if not (file := found.file(file, name)):
            return
        image = found.image(UnnamedFile(file, name), name, modality="X-Ray", body_part="Chest")
        findings = labels.get(study, {})
        present = tuple(label for label, is_there in findings.items() if is_there)
        if reports:
            if caption := caption_of(subject, study):
                found.caption(image, caption, kind="caption", content_type=views.get(dicom, ""), labels=present)
            else:
                found.left_out.add("report missing or without findings and impression", name)
        for label, is_there in findings.items():
            found.finding(image, label, _ASKED[label], shown=is_there, labels=present)

    columns = ("dicom_id", "study_id", "subject_id", "split")
    found.each(numbered_rows(os.path.join(root, _FILES.format("split")), columns), take)
    return found.finished()


def hashed_name(number: str) -> str:
    """What an image is called in records and messages: 16 hexadecimal digits that depend on its number alone."""
    return hashlib.sha256(f"mimic_cxr_jpg {number}".encode()).hexdigest()[:16]


def findings_and_impression(report: str) -> str:
    """The text of a report's findings and impression, on one line, without sentences that hold a mask; "" for neither.

    Sections begin with a heading in capitals at the beginning of a line; their order is the report's. Headings differ
    from report to report: what is called neither impression nor findings, nor by an examination's name, is passed over.
    """
    headings = list(_HEADING.finditer(report))
    parts = []
    for heading, following in zip_longest(headings, headings[1:]):
        end = following.start() if following else len(report)
        title = heading.group(1)
        told = _IMPRESSION.search(title) or (_FINDINGS.search(title) and not _OTHER.search(title))
        if told and (text := _unmasked(report[heading.end() : end])):
            parts.append(text)
    return " ".join(parts)


def _unmasked(text: str) -> str:
    # A title's full stop ends no sentence, else "Dr. ___" would leave "discussed with Dr." behind.
    joined = re.sub(r"\b(Dr|Drs|Mr|Mrs|Ms)\.", r"\1", " ".join(text.split()))
    return " ".join(sentence for sentence in re.split(r"(?<=[.!?])\s+", joined) if not _MASK.search(sentence))


def _reports_folder(root: str) -> str:
    """What the patients' folders with the reports lie in, "" where there are none, as in MIMIC-CXR-JPG by itself."""
    unpacked, beside = os.path.join(root, "mimic-cxr-reports", "files"), os.path.join(root, "files")
    for folder in (unpacked, beside):
        # Whether the first patient's folder, as in p10/p10000032/s50414267.txt, has a text file.
        groups = sorted(Path(folder).glob("*/"))[:1]
        patients = [patient for group in groups for patient in sorted(group.glob("*/"))[:1]]
        if any(file.suffix == ".txt" for patient in patients for file in patient.iterdir()):
            return folder
    logger.warning("mimic_cxr_jpg: no reports in %s or beside the studies; films have no captions", unpacked)
    return ""


def _caption(files: DataRoot, folder: str, subject: str, study: str) -> str:
    """Findings and impression of a study's report; "" where it has neither, or is missing."""
    try:
        path = files.file(os.path.join(folder, subject[:3], subject, f"{study}.txt"))
        if not path:
            return ""
        with open(path, encoding="utf-8") as file:
            return findings_and_impression(file.read())
    except (OSError, UnicodeDecodeError, OutsideRoot, NoPlainFile):
        # The file's name holds the patient's number.
        raise UnreadableFile(f"{folder}: one of the reports cannot be read; copy them again") from None


def _labels(path: str, found: SplitBuilder) -> dict[str, dict[str, bool]]:
    """Study → CheXpert label → whether it is there, for those that are 1 or 0."""
    labels = {}

    def take(where: str, row: dict[str, str]) -> None:
        said = {}
        for label in _ASKED:
            value = row[label].strip()
            if value not in ("1.0", "0.0", "-1.0", "1", "0", "-1", ""):
                raise InvalidValue(
                    f"{where}: column {label!r} is {value!r}; expected 1.0, 0.0, -1.0 or blank",
                    fault=f"column {label!r} is not 1.0, 0.0, -1.0 or blank",
                )
            if value and not value.startswith("-"):
                said[label] = value.startswith("1")
        labels[f"s{text_field(row, 'study_id', where)}"] = said

    found.each(numbered_rows(path, ("subject_id", "study_id", *_ASKED)), take)
    return labels


SOURCE = Source(CARD, load)
