"""The tokenizer: PaliGemma's special ids, nothing unknown, the same file every time."""

import hashlib
import io
import json
import pickle

import pytest
import sentencepiece
import tokenizers
from expected_errors import refused
from tokenizers import decoders, models, normalizers

from data_pipelines.core.errors import ConfigError, DataError
from data_pipelines.text.tokenizer import Tokenizer, train_tokenizer
from data_pipelines.text.tokenizer_backends import LOC_TOKENS, SEG_TOKENS

CORPUS = [
    "answer en what is the marked structure?",
    "answer en is the marked structure the left kidney?",
    "detect right kidney",
    "liver",
    "Does the picture contain a spleen? Yes",
    "lung, heart, liver or kidney 12 cm",
] * 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return train_tokenizer(CORPUS, tmp_path_factory.mktemp("tokenizer") / "small.model", vocab_size=340)


def gemma_like_model(special: dict[str, int], symbols: list[str], *, byte_fallback: bool = True) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        model_type="bpe",
        vocab_size=330 if byte_fallback else 60,
        byte_fallback=byte_fallback,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        user_defined_symbols=symbols,
        minloglevel=2,
        **special,
    )
    return out.getvalue()


GEMMA_IDS = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}


def test_special_ids_are_paligemmas(tokenizer):
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (0, 1, 2)
    assert tokenizer.encode("\n") == [tokenizer.newline_id]


def test_vocabulary_ends_with_1024_loc_and_128_seg_tokens(tokenizer):
    assert tokenizer.encode("<loc0000>") == [tokenizer.loc_id]
    assert tokenizer.encode("<loc1023>") == [tokenizer.loc_id + 1023]
    assert tokenizer.encode("<seg000>") == [tokenizer.loc_id + 1024]
    assert tokenizer.encode("<seg127>") == [tokenizer.vocab_size - 1]


def test_a_model_without_loc_tokens_gets_them_after_its_last_piece(tmp_path):
    model = gemma_like_model(GEMMA_IDS, ["\n"])
    path = tmp_path / "gemma.model"
    path.write_bytes(model)
    size = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    tokenizer = Tokenizer.load(path)
    assert tokenizer.loc_id == size
    assert tokenizer.vocab_size == size + 1024 + 128
    assert tokenizer.encode("<loc0007> liver")[0] == size + 7


@pytest.mark.parametrize(
    "text",
    [
        "is the left kidney enlarged?",
        "  two  spaces\nand a newline ",
        "囊肿 é µ",
        "<loc0012><loc0400><loc0733><loc1023> liver <seg004>",
        "",
    ],
)
def test_decoding_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_no_text_is_unknown(tokenizer):
    assert 3 not in tokenizer.encode("囊肿 \u200b ß ∂ 😀")


def test_loc_tokens_leave_the_words_beside_them_alone(tokenizer):
    assert tokenizer.encode("<loc0001><loc0002> liver") == [
        tokenizer.loc_id + 1,
        tokenizer.loc_id + 2,
        *tokenizer.encode(" liver"),
    ]


def test_digits_are_single_tokens(tokenizer):
    assert len(tokenizer.encode("12")) == 2


def test_special_tokens_decode_to_nothing(tokenizer):
    assert tokenizer.decode([2, *tokenizer.encode("liver"), 1, 0, 0]) == "liver"


def test_text_that_spells_a_control_token_does_not_become_one(tokenizer):
    assert not {0, 1, 2} & set(tokenizer.encode("<pad></s><s><eos><bos>"))


def test_training_twice_writes_the_same_file(tmp_path):
    first = train_tokenizer(CORPUS, tmp_path / "a.model", vocab_size=340)
    second = train_tokenizer(iter(CORPUS), tmp_path / "b.model", vocab_size=340)
    assert first.sha256 == second.sha256
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.model", "b.model"]


def test_hash_is_of_the_file(tokenizer):
    with open(tokenizer.path, "rb") as file:
        content = file.read()
    assert tokenizer.sha256 == hashlib.sha256(content).hexdigest()
    assert (tokenizer.file, tokenizer.file_name) == (content, "tokenizer.model")


def test_a_token_has_its_id_and_an_absent_one_none(tokenizer):
    assert tokenizer.token_id("<loc0007>") == tokenizer.loc_id + 7
    assert tokenizer.token_id("<image>") is None


def test_a_small_corpus_gives_the_pieces_it_supports(tmp_path):
    tokenizer = train_tokenizer(["yes", "no"], tmp_path / "tiny.model", vocab_size=4000)
    assert tokenizer.vocab_size < 4 + 256 + 20 + 1 + 1024 + 128
    assert tokenizer.decode(tokenizer.encode("yes\nno")) == "yes\nno"


def test_pickled_tokenizer_works_without_its_file(tmp_path):
    tokenizer = train_tokenizer(CORPUS, tmp_path / "gone.model", vocab_size=340)
    (tmp_path / "gone.model").unlink()
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("left kidney") == tokenizer.encode("left kidney")
    assert (copy.path, copy.sha256, copy.vocab_size) == (tokenizer.path, tokenizer.sha256, tokenizer.vocab_size)


def test_too_small_a_vocabulary_names_the_setting(tmp_path):
    with refused(ConfigError, "config.invalid-value", "data.tokenizer_vocab = 270"):
        train_tokenizer(["".join(chr(0x4E00 + i) for i in range(200))], tmp_path / "x.model", vocab_size=270)


def test_no_text_to_train_on_is_an_error(tmp_path):
    with refused(DataError, "data.missing", "data.source", "data.train_split"):
        train_tokenizer(["", " \n"], tmp_path / "x.model", vocab_size=300)


def test_missing_file_is_named(tmp_path):
    with refused(DataError, "file.unreadable", "absent.model", "data.tokenizer"):
        Tokenizer.load(tmp_path / "absent.model")


@pytest.mark.parametrize("content", [b"", b"not a model at all"])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "junk.model"
    path.write_bytes(content)
    with refused(DataError, "file.malformed", "junk.model", "data.tokenizer"):
        Tokenizer.load(path)


def test_model_with_other_special_ids_is_refused():
    model = gemma_like_model({"pad_id": 3, "eos_id": 2, "bos_id": 1, "unk_id": 0}, ["\n"])
    with refused(DataError, "file.malformed", "data.tokenizer", "(pad, eos, bos) = (3, 2, 1)"):
        Tokenizer(model, "other.model")


def test_model_without_a_newline_token_is_refused():
    with refused(DataError, "file.malformed", "data.tokenizer", "newline"):
        Tokenizer(gemma_like_model(GEMMA_IDS, ["<unused>"], byte_fallback=False), "other.model")


LETTERS = "▁abcdefghijklmnopqrstuvwxyz?"


def tokenizer_json(*late: str, special: tuple[str, ...] = ("<pad>", "<eos>", "<bos>", "<unk>")) -> bytes:
    """A tokenizer.json in Gemma's manner that knows bytes, letters and "yes"; `late` are added after them, in order."""
    pieces = [*special, "<mask>", "\n", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS, "ye", "yes", "▁yes"]
    merges = [("y", "e"), ("ye", "s"), ("▁", "yes")]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    built = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    built.normalizer = normalizers.Replace(" ", "▁")
    built.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    hidden = {*special, "<mask>", "<image>"}
    added = (*special, "<mask>", "\n", *late)
    built.add_tokens([tokenizers.AddedToken(token, special=token in hidden, normalized=False) for token in added])
    built.enable_truncation(8)
    built.enable_padding(length=4)
    return built.to_str().encode()


SIZE = 4 + 2 + 256 + len(LETTERS) + 3  # of the above without `late`
LOCATIONS = LOC_TOKENS + SEG_TOKENS


def test_a_tokenizer_json_reads_as_a_sentencepiece_model_does():
    tokenizer = Tokenizer(tokenizer_json(*LOCATIONS), "t.json")
    assert tokenizer.file_name == "tokenizer.json"
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.newline_id) == (0, 1, 2, 5)
    assert (tokenizer.loc_id, tokenizer.vocab_size) == (SIZE, SIZE + 1152)
    assert tokenizer.encode("<loc0001>yes yes\n") == [SIZE + 1, SIZE - 2, SIZE - 1, 5]
    assert tokenizer.encode("") == []


@pytest.mark.parametrize(
    "text", ["  yes  no\nno ", "囊肿 é", "<loc0012><loc1023> yes <seg004>", "", "<mask>", "<eos><image>"]
)
def test_decoding_the_ids_of_a_tokenizer_json_gives_the_text_back(text):
    tokenizer = Tokenizer(tokenizer_json(*LOCATIONS, "<image>"), "t.json")
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_of_a_tokenizer_json_decode_to_nothing():
    tokenizer = Tokenizer(tokenizer_json(*LOCATIONS, "<image>"), "t.json")
    assert tokenizer.decode([2, *tokenizer.encode(" yes , no"), 1, 0, 0]) == " yes , no"


def test_text_that_spells_a_special_token_of_a_tokenizer_json_does_not_become_one():
    tokenizer = Tokenizer(tokenizer_json(*LOCATIONS, "<image>"), "t.json")
    ids = tokenizer.encode("<pad><eos><bos><unk><image>")
    assert not {0, 1, 2, 3} & set(ids)
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.encode("<mask>") == [4]  # which is user-defined in Gemma's SentencePiece model


def test_truncation_and_padding_of_a_tokenizer_json_are_not_applied():
    assert len(Tokenizer(tokenizer_json(), "t.json").encode("abcdefghijkl")) == 12
    assert len(Tokenizer(tokenizer_json(), "t.json").encode("a")) == 1


def test_an_image_token_after_the_loc_and_seg_tokens_is_not_counted():
    tokenizer = Tokenizer(tokenizer_json(*LOCATIONS, "<image>"), "t.json")
    assert tokenizer.vocab_size == tokenizer.token_id("<image>") == SIZE + 1152


def test_an_image_token_before_the_loc_tokens_is_counted():
    tokenizer = Tokenizer(tokenizer_json("<image>", *LOCATIONS), "t.json")
    assert (tokenizer.token_id("<image>"), tokenizer.loc_id) == (SIZE, SIZE + 1)
    assert tokenizer.vocab_size == SIZE + 1 + 1152


def test_a_tokenizer_json_without_loc_tokens_gets_them_after_its_last_token():
    file = tokenizer_json()
    tokenizer = Tokenizer(file, "t.json")
    assert (tokenizer.loc_id, tokenizer.vocab_size) == (SIZE, SIZE + 1152)
    assert tokenizer.encode("<loc0007> yes") == [SIZE + 7, SIZE - 1]
    assert (tokenizer.file, tokenizer.sha256) == (file, hashlib.sha256(file).hexdigest())
    completed = Tokenizer(tokenizer.completed_file(), "completed.json")
    assert completed.completed_file() == completed.file
    assert completed.encode("<seg127>yes") == tokenizer.encode("<seg127>yes") == [SIZE + 1151, SIZE - 2]


def test_a_pickled_tokenizer_json_reads_the_same():
    tokenizer = Tokenizer(tokenizer_json(*LOCATIONS), "t.json")
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("<loc0003> yes") == tokenizer.encode("<loc0003> yes")
    assert (copy.file, copy.path, copy.file_name) == (tokenizer.file, "t.json", "tokenizer.json")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"{", r"t\.json: data\.tokenizer is not a Hugging Face tokenizer\.json"),
        (b"{}", r"t\.json: data\.tokenizer is not a Hugging Face tokenizer\.json"),
        (b'{"added_tokens": [], "model": {"type": "x"}}', r"t\.json: data\.tokenizer is not a Hugging Face tokenizer"),
        (tokenizer_json("<loc0000>", "<loc0001>"), r"t\.json: .* has 2 of 1152 loc and seg tokens"),
        (tokenizer_json(*LOCATIONS[::-1]), r"t\.json: .* does not read <loc0000> to <loc1023> as 1024 consecutive ids"),
        (tokenizer_json(special=("<pad>", "<bos>", "<eos>", "<unk>")), r"t\.json: .* = \(0, 2, 1\), .* \(0, 1, 2\)"),
        (tokenizer_json(special=("<pad>", "</s>", "<s>", "<unk>")), r"t\.json: .* = \(0, None, None\)"),
    ],
    ids=["cut off", "empty", "unknown model", "some loc tokens", "loc tokens backwards", "swapped", "other names"],
)
def test_a_tokenizer_json_that_is_not_paligemmas_is_refused_in_one_line(file, message):
    with pytest.raises(DataError, match=message) as error:
        Tokenizer(file, "t.json")
    assert "\n" not in str(error.value)


def test_a_tokenizer_json_without_a_newline_token_is_refused():
    content = json.loads(tokenizer_json(*LOCATIONS))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "\n"]
    content["model"]["vocab"]["<other>"] = content["model"]["vocab"].pop("\n")
    content["model"]["vocab"].pop("<0x0A>")
    with refused(DataError, "file.malformed", "t.json", "data.tokenizer", "newline"):
        Tokenizer(json.dumps(content).encode(), "t.json")
