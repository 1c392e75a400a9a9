import gzip
import logging
import pickle
from pathlib import Path

import pytest
from expected_errors import refused
from PIL import Image

from data_pipelines.core.errors import DataError, ImageError
from data_pipelines.images import reading
from data_pipelines.loading.checks import check_leaks, verify_images
from data_pipelines.loading.examples import load_source
from data_pipelines.loading.preprocess import Preprocessor
from data_pipelines.prepare import main
from data_pipelines.sources import mimic_cxr_jpg
from data_pipelines.sources.mimic_cxr_jpg import findings_and_impression, hashed_name
from rllava_jax.config import DataConfig, RegionConfig

# Invented numbers in the published form: (dicom, patient, study, split, view).
FILMS = (
    ("aaaaaaaa-11111111-22222222-33333333-44444444", "19999901", "59999901", "train", "PA"),
    ("bbbbbbbb-11111111-22222222-33333333-44444444", "19999901", "59999901", "train", "LATERAL"),
    ("cccccccc-11111111-22222222-33333333-44444444", "19999902", "59999902", "test", "AP"),
)
COLUMNS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman with cough  // ?pneumonia

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___

 FINDINGS:

 The heart is enlarged.  Compared to ___, the
 effusion is unchanged. No pneumothorax.

 IMPRESSION:

 1.  Cardiomegaly.  Findings were discussed with Dr. ___ by telephone at ___.
"""


def write(path, rows):
    with gzip.open(path, "wt") as file:
        file.write("\n".join(",".join(row) for row in rows) + "\n")


@pytest.fixture
def small_root(tmp_path):
    """Three films of two studies; the first study's report is there."""

    def build(reports="mimic-cxr-reports/files", labels=None):
        labels = labels or {"59999901": {"Cardiomegaly": "1.0", "Edema": "0.0", "Pneumonia": "-1.0"}}
        header = ("dicom_id", "study_id", "subject_id", "split")
        write(tmp_path / "mimic-cxr-2.0.0-split.csv.gz", [header, *((d, s, p, which) for d, p, s, which, _ in FILMS)])
        views = [("dicom_id", "subject_id", "study_id", "ViewPosition"), *((d, p, s, v) for d, p, s, _, v in FILMS)]
        write(tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz", views)
        rows = [("199", study, *(found.get(name, "") for name in COLUMNS)) for study, found in labels.items()]
        write(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", [("subject_id", "study_id", *COLUMNS), *rows])
        for dicom, patient, study, _, _ in FILMS:
            folder = tmp_path / f"files/p{patient[:2]}/p{patient}/s{study}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 6)).save(folder / f"{dicom}.jpg")
        if reports:
            folder = tmp_path / reports / "p19/p19999901"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "s59999901.txt").write_text(REPORT)
        return str(tmp_path)

    return build


@pytest.mark.parametrize("reports", ["mimic-cxr-reports/files", "files"])
def test_each_film_of_a_study_has_the_reports_findings_and_impression(small_root, reports):
    captions = [e for e in mimic_cxr_jpg.SOURCE.load(small_root(reports), "train").examples if e.task == "caption"]
    assert [e.answer for e in captions] == ["The heart is enlarged. No pneumothorax. 1. Cardiomegaly."] * 2
    assert [e.content_type for e in captions] == ["PA", "LATERAL"]
    assert {(e.family, e.question, e.labels) for e in captions} == {("caption", "", ("Cardiomegaly",))}


def test_labels_of_1_and_0_are_asked_about_and_uncertain_and_blank_ones_are_not(small_root):
    examples = mimic_cxr_jpg.SOURCE.load(small_root(), "train").examples
    first = [e for e in examples if e.image_id == examples[0].image_id and e.task == "answer"]
    assert [(e.question, e.answer) for e in first] == [
        ("Does this film show cardiomegaly?", "Yes"),
        ("Does this film show edema?", "No"),
    ]
    assert {e.answer_type for e in first} == {"closed"}
    assert len({e.id for e in examples}) == len(examples) == 6


def test_no_number_of_patient_study_or_image_is_carried_or_logged(small_root, tmp_path, caplog):
    root = small_root()
    dicom, patient, study, _, _ = FILMS[1]
    (tmp_path / f"files/p19/p{patient}/s{study}/{dicom}.jpg").unlink()
    with caplog.at_level(logging.DEBUG):
        split = mimic_cxr_jpg.SOURCE.load(root, "train")
    assert split.left_out == {"image not in the folder": [hashed_name(dicom)]}
    said = caplog.text + repr(split.left_out)
    said += "".join(f"{e.id} {e.image_id} {e.question} {e.answer} {e.labels}" for e in split.examples)
    for number in (*FILMS[0][:3], dicom):
        assert number not in said


def test_hashed_names_are_stable_and_differ():
    assert hashed_name("a") == "d0e2ae7eabba0d66"
    assert len({hashed_name(dicom) for dicom, *_ in FILMS}) == 3


def test_a_film_whose_report_is_missing_has_its_questions_alone_and_is_named(small_root):
    root = small_root(labels={"59999902": {"Fracture": "0.0"}})
    split = mimic_cxr_jpg.SOURCE.load(root, "test")
    assert [e.question for e in split.examples] == ["Does this film show a fracture?"]
    assert split.left_out == {"report missing or without findings and impression": [hashed_name(FILMS[2][0])]}


def test_without_reports_there_are_no_captions_and_one_warning(small_root, caplog):
    with caplog.at_level(logging.WARNING):
        split = mimic_cxr_jpg.SOURCE.load(small_root(reports=""), "train")
    assert {e.task for e in split.examples} == {"answer"}
    assert split.left_out == {}
    assert "films have no captions" in caplog.text


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (" FINDINGS AND IMPRESSION:  Clear lungs.\n", "Clear lungs."),
        (" PA AND LATERAL VIEWS OF THE CHEST:  Clear.\n\n IMPRESSION: Normal.\n", "Clear. Normal."),
        (" EXAMINATION:  CHEST\n REASON FOR EXAM: cough\n CONCLUSION:  Normal.\n", "Normal."),
        (" INDICATION: cough\n\n Lungs are clear.\n", ""),
        (" IMPRESSION:  Tube at ___ cm.\n RECOMMENDATION:  Repeat.\n", ""),
        ("", ""),
    ],
)
def test_findings_and_impression_are_found_by_their_headings(report, text):
    assert findings_and_impression(report) == text


def test_a_report_that_is_no_text_is_an_error_without_its_name(small_root, tmp_path):
    root = small_root()
    (tmp_path / "mimic-cxr-reports/files/p19/p19999901/s59999901.txt").write_bytes(b"\xff\xfe")
    with refused(DataError, "file.unreadable") as caught:
        mimic_cxr_jpg.SOURCE.load(root, "train")
    assert "9999901" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_wrong_split_missing_file_and_odd_label_are_errors(small_root, tmp_path):
    root = small_root(labels={"59999901": {"Edema": "2.0"}})
    with refused(DataError, "data.invalid-value", "chexpert.csv.gz", "2", "Edema", "2.0"):
        mimic_cxr_jpg.SOURCE.load(root, "train")
    with refused(DataError, "data.unknown-name", "valid"):
        mimic_cxr_jpg.SOURCE.load(root, "valid")
    (tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz").unlink()
    with refused(DataError, "file.missing", "chexpert.csv.gz"):
        mimic_cxr_jpg.SOURCE.load(root, "train")


def test_the_card_counts_377110_films():
    assert sum(count.images for count in mimic_cxr_jpg.CARD.splits.values()) == 377110


# An image's path holds the numbers of patient, study and image: no message may show it.

BROKEN, PATIENT, STUDY, *_ = FILMS[2]


@pytest.fixture(params=["corrupt", "truncated", "unreadable", "missing"])
def broken(small_root, request):
    """The test split's film as its example, damaged since it was listed."""
    example = mimic_cxr_jpg.SOURCE.load(small_root(), "train").examples[-1]
    path = Path(example.image.path)
    content = path.read_bytes()
    path.unlink()
    if request.param == "corrupt":
        path.write_bytes(b"no image")
    elif request.param == "truncated":
        path.write_bytes(content[:300])
    elif request.param == "unreadable":
        path.mkdir()
    return example


def names_nobody(said):
    return not any(number in said for film in FILMS for number in film[:3])


def test_decoding_names_an_unreadable_film_by_its_image_id(broken):
    with pytest.raises(ImageError, match=f"{broken.image_id}: image (is missing|cannot be read)") as caught:
        reading.decode(broken.image, broken.image_id)
    assert names_nobody(str(caught.value))
    assert names_nobody(repr(broken.image) + f"{broken.image}{broken.image!s}")


def test_the_checks_before_training_name_it_so_too(broken, caplog):
    settings = RegionConfig(encoders=("crop",), tokens=4, crop_size=28)
    preprocessor = Preprocessor(28, 14, settings, DataConfig(), None)  # nothing is tokenised
    with caplog.at_level(logging.DEBUG), pytest.raises(DataError, match=broken.image_id) as caught:
        verify_images([broken], preprocessor, allowed=0, progress=False)
    assert verify_images([broken], preprocessor, allowed=1, progress=False) == []
    assert broken.image_id in caplog.text
    assert names_nobody(str(caught.value) + caplog.text)


def test_the_test_for_leaks_reads_the_files_and_names_them_so_too(small_root):
    train = mimic_cxr_jpg.SOURCE.load(small_root(), "train").examples
    test = mimic_cxr_jpg.SOURCE.load(small_root(labels={"59999902": {"Edema": "1.0"}}), "test").examples
    with pytest.raises(DataError, match=hashed_name(BROKEN)) as caught:  # all films are drawn alike
        check_leaks(train, test, allowed=False)
    assert names_nobody(str(caught.value))
    Path(test[0].image.path).unlink()
    with pytest.raises(ImageError, match=hashed_name(BROKEN)) as caught:
        check_leaks(train, test, allowed=False)
    assert names_nobody(str(caught.value))


def test_what_is_prepared_has_the_pixels_and_none_of_the_numbers(
    small_root, tmp_path, tmp_path_factory, capsys, caplog
):
    root = small_root(labels={"59999901": {"Edema": "1.0"}, "59999902": {"Edema": "1.0"}})
    path = tmp_path / f"files/p19/p{PATIENT}/s{STUDY}/{BROKEN}.jpg"
    path.write_bytes(b"no image")
    out = tmp_path_factory.mktemp("out") / "prepared"
    arguments = ["mimic_cxr_jpg", "--source", root, "--out", str(out), "--splits", "train,test", "--workers", "1"]
    assert main(arguments) == 2
    assert main([*arguments, "--allow-missing"]) == 0
    assert hashed_name(BROKEN) in (out / "prepared.json").read_text()
    files = [file for file in out.rglob("*") if file.is_file()]
    said = "".join(capsys.readouterr()) + caplog.text
    said += "".join(f"{file.name} {file.read_bytes().decode('latin-1')}" for file in files)
    assert names_nobody(said)
    checksums = (out / "source_files.sha256").read_text()
    assert "/" not in checksums
    read = load_source(DataConfig(source="prepared", root=str(out)), "train")
    published = mimic_cxr_jpg.SOURCE.load(root, "train")
    for ours, theirs in zip(read.images, published.images, strict=True):
        assert (reading.decode(ours.image, "ours") == reading.decode(theirs.image, "theirs")).all()


def test_a_film_travels_to_worker_processes(small_root):
    example = mimic_cxr_jpg.SOURCE.load(small_root(), "train").examples[0]
    assert pickle.loads(pickle.dumps(example)) == example
