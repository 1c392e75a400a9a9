"""The tokenizer files of a Hugging Face folder: the same ids as ours, in both versions of transformers."""

import io
import itertools
import json
import random
import sys
import time
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from expected_errors import refused
from other_transformers import run_with_transformers_457
from sentencepiece import sentencepiece_model_pb2

from data_pipelines.core.errors import ConfigError
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from data_pipelines.text.tokenizer_backends import LOC_TOKENS, SEG_TOKENS
from rllava_jax.interop.tokenizer_files import _merges, huggingface_tokenizer_files, image_token_id

CORPUS = [
    "answer en what is the marked structure?",
    "answer en is the marked structure the left kidney?  No, hepatomegaly of 12 cm.",
    "detect right kidney",
    "aaaa aaa ababab abaab ---- ..",
] * 5
GEMMA_IDS = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
GEMMA_MANNER = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "user_defined_symbols": ["\n"],
}
_PRINTABLE = """liver|kidney|hepatomegaly|enlarged|left|12|cm|answer|en|detect|?|,|.|a|aa|aaa|ab|ba|囊肿|é|µ|😀|ß|▁|▁▁
<b>|</s>|<s>|<0x41>|<loc0000>|<loc0001><loc0400>|<loc1023>|<seg127>|<loc 0001>|<loc1024>
"""
FRAGMENTS = [*_PRINTABLE.replace("\n", "|").split("|"), *" \n\t\r\0", "  ", "    ", "\n\n\n", "\t\t", "\xa0", "\u200b"]


def sentencepiece_model(**settings) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        minloglevel=2,
        hard_vocab_limit=False,
        **{"vocab_size": 400, **GEMMA_IDS, **GEMMA_MANNER, **settings},
    )
    return out.getvalue()


def edited(model: bytes, edit) -> Tokenizer:
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    edit(proto)
    return Tokenizer(proto.SerializeToString(), "edited.model")


def random_texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [
        "".join(rng.choice(FRAGMENTS) + rng.choice(["", " "]) for _ in range(rng.randint(0, 12))) for _ in range(count)
    ]


def assert_same_ids(tokenizer: Tokenizer, texts) -> None:
    """Of the written tokenizer.json with the library itself, and of ours read from it."""
    file = huggingface_tokenizer_files(tokenizer)["tokenizer.json"]
    library, ours = tokenizers.Tokenizer.from_str(file.decode()), Tokenizer(file, "tokenizer.json")
    assert (ours.vocab_size, ours.loc_id, ours.newline_id) == (
        tokenizer.vocab_size,
        tokenizer.loc_id,
        tokenizer.newline_id,
    )
    for text in texts:
        ids = tokenizer.encode(text)
        assert library.encode(text, add_special_tokens=False).ids == ids, repr(text)
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids) == tokenizer.decode(ids) == library.decode(ids, skip_special_tokens=False), repr(text)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return train_tokenizer(CORPUS, tmp_path_factory.mktemp("tokenizer") / "small.model", vocab_size=400)


@pytest.fixture(scope="module")
def gemma_like() -> Tokenizer:
    """User-defined pieces as in Gemma's model: runs of newlines, of spaces and of tabs, tags, `<mask>`."""
    symbols = ["<mask>", "\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "\t\t", "<b>", "<unused0>", "en▁", "kid"]
    return Tokenizer(sentencepiece_model(user_defined_symbols=symbols), "gemma.model")


@pytest.mark.parametrize("fixture", ["tokenizer", "gemma_like"])
def test_ids_and_texts_are_sentencepieces(fixture, request):
    assert_same_ids(request.getfixturevalue(fixture), [*random_texts(4000), *CORPUS])


def test_every_string_of_two_letters_is_merged_in_sentencepieces_order(tmp_path):
    rng = random.Random(0)
    corpus = ["aaaaaaaa", "abababab", "aabbaabb"] * 3 + ["".join(rng.choices("ab", k=30)) for _ in range(30)]
    tokenizer = train_tokenizer(corpus, tmp_path / "ab.model", vocab_size=330)
    assert_same_ids(tokenizer, ("".join(letters) for n in range(12) for letters in itertools.product("ab", repeat=n)))


def test_without_byte_pieces_what_is_unknown_stays_one_token():
    model = sentencepiece_model(byte_fallback=False, vocab_size=150)
    file = huggingface_tokenizer_files(Tokenizer(model, "x.model"))["tokenizer.json"]
    encoded = tokenizers.Tokenizer.from_str(file.decode()).encode("left 囊肿 kidney", add_special_tokens=False)
    assert encoded.ids == Tokenizer(model, "x.model").encode("left 囊肿 kidney")
    assert encoded.ids.count(3) == 1


def test_a_character_that_is_only_a_byte_still_joins_longer_pieces():
    def add_tabs(proto):
        proto.pieces.add(piece="\t\t", score=-1.5, type=proto.SentencePiece.NORMAL)

    tokenizer = edited(sentencepiece_model(), add_tabs)
    assert tokenizer.encode("\t\t") == [tokenizer.loc_id - 1]
    assert_same_ids(tokenizer, ["\t", "\t\t", "\t\t\tkidney\t", *random_texts(500)])


def test_control_tokens_that_the_text_spells_are_tokens_for_hugging_face_alone(tokenizer):
    file = huggingface_tokenizer_files(tokenizer)["tokenizer.json"]
    text = "<image><bos>kidney<eos><pad>"
    library = tokenizers.Tokenizer.from_str(file.decode())
    assert library.encode(text, add_special_tokens=False).ids == [
        *(image_token_id(tokenizer), 2),
        *tokenizer.encode("kidney"),
        *(1, 0),
    ]
    assert Tokenizer(file, "tokenizer.json").encode(text) == tokenizer.encode(text)


def test_bos_is_added_as_gemmas_files_do(tokenizer):
    library = tokenizers.Tokenizer.from_str(huggingface_tokenizer_files(tokenizer)["tokenizer.json"].decode())
    assert library.encode("kidney").ids == [2, *tokenizer.encode("kidney")]


def test_sentencepiece_model_comes_along_with_its_loc_and_seg_pieces():
    model = sentencepiece_model()
    files = huggingface_tokenizer_files(Tokenizer(model, "gemma.model"))
    assert set(files) == {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"}
    pieces = sentencepiece.SentencePieceProcessor(model_proto=files["tokenizer.model"])
    assert pieces.get_piece_size() == sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size() + 1152


def test_tokenizer_json_with_an_image_token_is_passed_on_unchanged(tokenizer):
    files = huggingface_tokenizer_files(tokenizer)
    again = Tokenizer(files["tokenizer.json"], "tokenizer.json")
    assert image_token_id(again) == image_token_id(tokenizer) == tokenizer.vocab_size
    assert huggingface_tokenizer_files(again) == {k: v for k, v in files.items() if k != "tokenizer.model"}


def test_tokenizer_json_without_an_image_token_gets_it_after_everything_else(tokenizer):
    content = json.loads(huggingface_tokenizer_files(tokenizer)["tokenizer.json"])
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<image>"]
    content["post_processor"] = None
    bare = Tokenizer(json.dumps(content).encode(), "tokenizer.json")
    written = tokenizers.Tokenizer.from_str(huggingface_tokenizer_files(bare)["tokenizer.json"].decode())
    assert written.token_to_id("<image>") == image_token_id(bare) == bare.vocab_size == tokenizer.vocab_size
    assert written.encode("<image>kidney").ids == [2, bare.vocab_size, *tokenizer.encode("kidney")]


def test_an_image_token_of_the_models_own_keeps_its_id():
    tokenizer = Tokenizer(sentencepiece_model(user_defined_symbols=["<image>", "\n"]), "x.model")
    built = tokenizers.Tokenizer.from_str(huggingface_tokenizer_files(tokenizer)["tokenizer.json"].decode())
    assert image_token_id(tokenizer) == built.token_to_id("<image>") == 4
    assert built.get_vocab_size() == tokenizer.vocab_size


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"model_type": "unigram"}, ["x.model: trainer_spec.model_type = 'UNIGRAM'", "'BPE'"]),
        ({"remove_extra_whitespaces": True}, ["x.model: normalizer_spec.remove_extra_whitespaces = True"]),
        ({"normalization_rule_name": "nmt_nfkc"}, ["x.model: normalizer_spec.precompiled_charsmap"]),
    ],
)
def test_a_model_that_is_not_in_gemmas_manner_is_refused(settings, named):
    with refused(ConfigError, "export.unsupported", *named):
        huggingface_tokenizer_files(Tokenizer(sentencepiece_model(**settings), "x.model"))


def test_two_pieces_of_one_name_are_refused():
    tokenizer = Tokenizer(sentencepiece_model(user_defined_symbols=["<eos>", "\n"]), "x.model")  # its control is </s>
    with refused(ConfigError, "export.unsupported", "x.model", "'<eos>'"):
        huggingface_tokenizer_files(tokenizer)


def test_a_tokenizer_json_of_another_algorithm_is_refused(tokenizer):
    content = json.loads(huggingface_tokenizer_files(tokenizer)["tokenizer.json"])
    content["model"] = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "<unk>"}
    with refused(ConfigError, "export.unsupported", "t.json: model.type = 'WordLevel'", "'BPE'"):
        huggingface_tokenizer_files(Tokenizer(json.dumps(content).encode(), "t.json"))


def test_merges_of_a_vocabulary_of_gemmas_size_take_seconds():
    rng = random.Random(0)
    letters = "▁abcdefghijklmnopqrstuvwxyz"
    scores = dict.fromkeys(letters, -1e6)
    while len(scores) < 256_000:
        word = "".join(rng.choices(letters, k=10))
        for length in range(2, 11):  # every beginning of it is a piece, so that every piece can be merged
            scores.setdefault(word[:length], -float(len(scores)))
    start = time.process_time()
    merges = _merges(scores, set())
    assert time.process_time() - start < 60
    assert len(merges) >= 256_000 - len(letters)


# Prints what a version of transformers makes of each folder, one line each.
READ_FOLDERS = """
import json, os, sys
import numpy as np
from PIL import Image
from transformers import AutoTokenizer, PaliGemmaProcessor

texts = json.loads(sys.argv[1])
image = Image.fromarray(np.zeros((20, 20, 3), np.uint8))
for folder in sys.argv[2:]:
    auto = AutoTokenizer.from_pretrained(folder)
    # Version 4's slow tokenizer reads the SentencePiece model alone; version 5 has none and ignores the wish.
    slow = AutoTokenizer.from_pretrained(folder, use_fast=not os.path.exists(f"{folder}/tokenizer.model"))
    processor = PaliGemmaProcessor.from_pretrained(folder)
    prompts = ["<image>" + text for text in texts]
    batch = processor(images=[image] * len(texts), text=prompts, suffix=["liver"] * len(texts), padding=True)
    print(json.dumps({
        "class": type(auto).__name__,
        "size": len(auto),
        "auto": [auto(text).input_ids for text in texts],
        "slow": [slow(text).input_ids for text in texts],
        "decoded": [auto.decode([0, *auto(text).input_ids, 1], skip_special_tokens=True) for text in texts],
        "image_token_ids": [slow.convert_tokens_to_ids("<image>"), processor.image_token_id],
        "processor_size": len(processor.tokenizer),
        "single": [np.asarray(processor(images=image, text=p)["input_ids"])[0].tolist() for p in prompts],
        "batch": np.asarray(batch["input_ids"]).tolist(),
        "mask": np.asarray(batch["attention_mask"]).tolist(),
    }))
"""
TEXTS = ["answer en what is the  left kidney?", "detect\t囊肿 <loc0003><loc1023> liver", " two  spaces \n\n "]
IMAGE_TOKENS = 3


SOURCES = ["trained", "gemma-like", "tokenizer.json", "grown by transformers"]


@pytest.fixture(scope="module")
def sources(tokenizer, gemma_like) -> dict[str, Tokenizer]:
    content = json.loads(huggingface_tokenizer_files(tokenizer)["tokenizer.json"])
    from_json = Tokenizer(json.dumps(content).encode(), "tokenizer.json")
    # PaliGemmaProcessor gives a bare tokenizer `<image>` first, and then the loc and seg tokens.
    later = {t["content"] for t in content["added_tokens"] if t["content"][:4] in ("<loc", "<seg", "<ima")}
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in later]
    content["model"]["vocab"] = {k: v for k, v in content["model"]["vocab"].items() if k not in later}
    grown = tokenizers.Tokenizer.from_str(json.dumps(content))
    grown.add_special_tokens([tokenizers.AddedToken("<image>", special=True, normalized=False)])
    grown.add_tokens([*LOC_TOKENS, *SEG_TOKENS])
    from_grown = Tokenizer(grown.to_str().encode(), "grown.json")
    assert image_token_id(from_grown) == from_grown.loc_id - 1
    return dict(zip(SOURCES, (tokenizer, gemma_like, from_json, from_grown), strict=True))


@pytest.fixture(scope="module")
def folders(sources, tmp_path_factory) -> dict[str, Path]:
    image_processor = {
        "image_processor_type": "SiglipImageProcessor",
        "image_seq_length": IMAGE_TOKENS,
        "size": {"height": 14, "width": 14},
    }
    written = {}
    for name, source in sources.items():
        folder = tmp_path_factory.mktemp("folder")
        for file, content in huggingface_tokenizer_files(source).items():
            (folder / file).write_bytes(content)
        (folder / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
        (folder / "preprocessor_config.json").write_text(json.dumps(image_processor))
        written[name] = folder
    return written


@pytest.fixture(scope="module")
def read_by_transformers_4(folders) -> dict[str, str]:
    printed = run_with_transformers_457(READ_FOLDERS, json.dumps(TEXTS), *folders.values())
    return dict(zip(folders, printed.splitlines(), strict=True))


def assert_reads_as_we_do(printed: str, tokenizer: Tokenizer) -> None:
    read = json.loads(printed)
    image = image_token_id(tokenizer)
    size = max(tokenizer.vocab_size, image + 1)
    # A token that transformers added by itself would be an id past the embedding table.
    assert (read["size"], read["processor_size"], read["image_token_ids"]) == (size, size, [image, image])
    assert read["class"] in ("GemmaTokenizer", "GemmaTokenizerFast")
    assert read["auto"] == read["slow"] == [[2, *tokenizer.encode(text)] for text in TEXTS]
    assert read["decoded"] == TEXTS
    prompts = [[image] * IMAGE_TOKENS + [2, *tokenizer.encode(text), tokenizer.newline_id] for text in TEXTS]
    assert read["single"] == prompts
    whole = [[*prompt, *tokenizer.encode("liver"), 1] for prompt in prompts]
    pads = [max(map(len, whole)) - len(ids) for ids in whole]
    assert read["batch"] == [[0] * pad + ids for pad, ids in zip(pads, whole, strict=True)]  # padded on the left
    assert read["mask"] == [[0] * pad + [1] * len(ids) for pad, ids in zip(pads, whole, strict=True)]


@pytest.mark.parametrize("name", SOURCES)
def test_transformers_5_gives_the_ids_that_training_gave(name, sources, folders, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["", json.dumps(TEXTS), str(folders[name])])
    exec(READ_FOLDERS, {})
    assert_reads_as_we_do(capsys.readouterr().out, sources[name])


@pytest.mark.parametrize("name", SOURCES)
def test_transformers_4_gives_the_ids_that_training_gave(name, sources, read_by_transformers_4):
    assert_reads_as_we_do(read_by_transformers_4[name], sources[name])
