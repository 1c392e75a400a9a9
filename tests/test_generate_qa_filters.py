"""What the filters leave out and, as much, what they keep."""

import itertools
import json

import pytest
from expected_errors import refused

from data_pipelines.core.errors import DataError
from data_pipelines.generation.captions import Caption
from data_pipelines.generation.filters import Duplicates, Filters, read_pathologies
from data_pipelines.generation.pairs import GeneratedPair
from data_pipelines.generation.words import contains, is_language, words
from data_pipelines.records import Turn


def filters(**changes):
    settings = {
        "skipped": frozenset(),
        "terms": None,
        "pathology_scope": "caption",
        "caption_words": (2, 20),
        "question_words": (3, 20),
        "answer_words": (1, 10),
        "language": "en",
    }
    return Filters(**(settings | changes))


def pair(question, answer, kind="open"):
    return GeneratedPair(kind, (Turn(question, answer),))


def caption(text):
    return Caption("c", "a.png", "a.png", text)


def test_words_ignore_case_and_punctuation_and_keep_numbers_whole():
    assert words("T2-weighted MRI: 3.5 cm, Crohn’s.") == ("t2", "weighted", "mri", "3.5", "cm", "crohn's")
    assert words("肝脏 CT") == ("肝", "脏", "ct")
    assert contains(words("a left pleural effusion"), words("Pleural  Effusion"))
    assert not contains(words("an ineffusion"), words("effusion"))
    assert not contains(words("anything"), ())


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is the cyst in the liver a cyst?", "Cyst."),
        ("Which organ, the left kidney, is enlarged?", "left kidney"),
        ("What does the mass in a right upper lobe show?", "The right upper lobe"),
    ],
)
def test_an_answer_in_its_question_is_left_out(question, answer):
    assert filters().pair_fault(pair(question, answer)) == "answer_in_question"
    assert filters(skipped=frozenset({"answer_in_question"})).pair_fault(pair(question, answer)) is None


@pytest.mark.parametrize(
    ("question", "answer", "kind"),
    [
        ("Which kidney is enlarged here?", "left kidney", "open"),
        ("Where does the arrow point to?", "the row", "open"),
        ("Is there no effusion in this picture?", "no", "closed"),
    ],
)
def test_a_part_of_an_answer_or_of_a_word_in_the_question_is_kept(question, answer, kind):
    assert filters().pair_fault(pair(question, answer, kind)) is None


@pytest.mark.parametrize(
    "answer",
    [
        "As an AI, I do not see images",
        "I'm sorry, but no",
        "It cannot be determined",
        "Cannot determine from the caption",
        "This is not explicitly mentioned",
        "not specified in the caption",
        "Unknown.",
        "N/A",
        "Insufficient information",
    ],
)
def test_refusals_are_left_out(answer):
    assert filters().pair_fault(pair("What is seen here?", answer)) == "refusal"


@pytest.mark.parametrize("answer", ["carcinoma of unknown primary", "no", "cannot exclude infarction", "no effusion"])
def test_medical_negations_are_no_refusals(answer):
    assert filters().pair_fault(pair("What is seen here?", answer)) is None


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What does the caption say?", "cyst"),
        ("What finding does the given text describe?", "cyst"),
        ("Which organ is mentioned here?", "liver"),
        ("What is seen here?", "a cyst, as described"),
        ("According to the authors, what is it?", "cyst"),
    ],
)
def test_what_speaks_of_the_caption_is_left_out(question, answer):
    assert filters().pair_fault(pair(question, answer)) == "mentions_caption"


@pytest.mark.parametrize(
    "question", ["What texture has the mass?", "Which image plane is shown?", "What is legendary?"]
)
def test_what_only_sounds_like_it_is_kept(question):
    assert filters().pair_fault(pair(question, "coarse")) is None


def test_length_is_counted_in_words_of_every_turn():
    assert filters().pair_fault(pair("What's it?", "cyst")) == "too_short"
    assert filters().pair_fault(pair("What is it?", "cyst " * 11)) == "too_long"
    talk = GeneratedPair("conversation", (Turn("What is it?", "A cyst"), Turn("Where?", "In the liver")))
    assert filters().pair_fault(talk) == "too_short"
    assert filters().caption_fault(caption("Cyst.")) == "too_short"


def test_another_language_is_left_out_and_short_text_is_not_judged():
    french = "Quelle anomalie est visible dans le lobe droit du foie sur cette image?"
    assert filters().pair_fault(pair(french, "un kyste hépatique")) == "language"
    assert filters(language="fr").pair_fault(pair(french, "un kyste hépatique")) is None
    assert filters().pair_fault(pair("Which side is it?", "sinistra")) is None
    assert is_language("这张图像显示了哪个器官的异常信号?", "zh")
    assert not is_language("这张图像显示了哪个器官的异常信号?", "en")


def test_published_english_questions_pass_the_language_filter(slake_root):
    with open(f"{slake_root}/test.json", encoding="utf-8") as file:
        entries = json.load(file)
    texts = {
        code: [f"{e['question']} {e['answer']}" for e in entries if e["q_lang"] == code][:300] for code in ("en", "zh")
    }
    assert [len(of_language) for of_language in texts.values()] == [300, 300]
    assert sum(is_language(text, "en") for text in texts["en"]) / len(texts["en"]) > 0.99
    assert not any(is_language(text, "en") for text in texts["zh"])


def test_the_pathology_list_asks_for_whole_words_in_any_case(tmp_path):
    path = tmp_path / "terms.txt"
    path.write_text("# chest\n\nPleural Effusion\ncyst\n")
    listed = filters(terms=read_pathologies(str(path)))
    assert listed.caption_fault(caption("Large PLEURAL effusion on the left side.")) is None
    assert listed.caption_fault(caption("Cystic change of the left kidney.")) == "pathology"
    by_pair = filters(terms=read_pathologies(str(path)), pathology_scope="pair")
    assert by_pair.caption_fault(caption("Cystic change of the left kidney.")) is None
    assert by_pair.pair_fault(pair("What is seen here?", "a cyst")) is None
    assert by_pair.pair_fault(pair("What is seen here?", "a mass")) == "pathology"
    path.write_text("# nothing\n")
    with refused(DataError, "data.missing"):
        read_pathologies(str(path))


LONG = (
    "On which side of the abdomen does the large {} mass with smooth margins displace the adjacent small bowel loops?"
)


def test_the_same_question_of_one_image_is_an_exact_duplicate_and_of_two_images_is_not():
    seen = Duplicates("image", 0.8)
    assert seen.fault(pair("How was it made?", "CT"), "a") is None
    assert seen.fault(pair("how was it made", "MRI"), "a") == "duplicate_exact"
    assert seen.fault(pair("How was it made?", "CT"), "b") is None
    whole = Duplicates("set", 0.8)
    assert whole.fault(pair("How was it made?", "CT"), "a") is None
    assert whole.fault(pair("How was it made?", "CT"), "b") == "duplicate_exact"


def test_nearly_the_same_question_with_the_same_answer_is_a_near_duplicate():
    seen = Duplicates("image", 0.8)
    assert seen.fault(pair(LONG.format("cystic"), "left"), "a") is None
    # 20 words, one of them another: 18 of 22 different neighbours are shared, 0.82.
    assert seen.fault(pair(LONG.format("solid"), "left"), "a") == "duplicate_near"
    assert seen.fault(pair(LONG.format("solid"), "right"), "a") is None
    strict = Duplicates("image", 0.85)
    assert strict.fault(pair(LONG.format("cystic"), "left"), "a") is None
    assert strict.fault(pair(LONG.format("solid"), "left"), "a") is None


def test_left_and_right_are_not_near():
    seen = Duplicates("image", 0.8)
    assert seen.fault(pair("Is there an effusion on the left side?", "no", "closed"), "a") is None
    assert seen.fault(pair("Is there an effusion on the right side?", "no", "closed"), "a") is None


def test_near_duplicates_are_those_of_a_comparison_of_all_with_all():
    """MinHash only proposes: what it leaves out is above the threshold, and it misses few that are."""
    names = itertools.product(("shape", "size", "margin"), ("bright", "dark", "large"), ("left", "right"))
    wording = "what is the {} of the {} structure in the {} part of this axial image of the upper abdomen"
    stems = [wording.format(*combination) for combination in names]
    seen, kept, near = Duplicates("image", 0.7), [], 0
    for stem in stems:
        grams = set(zip(["", *stem.split()], [*stem.split(), ""], strict=True))
        above = any(len(grams & other) / len(grams | other) >= 0.7 for other in kept)
        found = seen.fault(pair(stem, "x"), "a") == "duplicate_near"
        assert found <= above
        near += found
        if not found:
            kept.append(grams)
    assert near >= 8
