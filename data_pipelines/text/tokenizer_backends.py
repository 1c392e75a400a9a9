"""The two kinds of tokenizer file: a SentencePiece model, and a Hugging Face tokenizer.json."""

import json
from typing import Any

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2

from data_pipelines.core.errors import MalformedFile, reason_of
from data_pipelines.core.first_bytes import HEAD, disguise
from data_pipelines.core.json_files import parse_json

LOC_TOKENS = tuple(f"<loc{i:04d}>" for i in range(1024))
SEG_TOKENS = tuple(f"<seg{i:03d}>" for i in range(128))
IMAGE_TOKEN = "<image>"
NEWLINE = "\n"

PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3
SPECIAL_TOKENS = {"<pad>": PAD_ID, "<eos>": EOS_ID, "<bos>": BOS_ID, "<unk>": UNK_ID}


class SentencePieceBackend:
    """A SentencePiece model. Appended tokens become user-defined pieces of the model itself: they are cut out of the
    text before anything else is, and the text around them is tokenised as SentencePiece does it."""

    file_name = "tokenizer.model"

    def __init__(self, file: bytes, path: str):
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(file)
        except RuntimeError as error:
            raise MalformedFile(
                f"{path}: data.tokenizer is not a SentencePiece model, nor a Hugging Face tokenizer.json; "
                "name a file that is one, or '' to train one"
            ) from error
        self._completed = with_location_pieces(file, path)
        self._processor.LoadFromSerializedProto(self._completed)

    @property
    def vocab_size(self) -> int:
        """One more than the highest id that text can become."""
        return self._processor.get_piece_size()

    def special_ids(self) -> tuple[int | None, ...]:
        """Ids of pad, eos and bos, and of what is in no token."""
        return self._processor.pad_id(), self._processor.eos_id(), self._processor.bos_id(), self._processor.unk_id()

    def token_id(self, token: str) -> int | None:
        """The id of a token, None if there is no such token."""
        # SentencePiece answers with unk for a piece that it does not have.
        number = self._processor.piece_to_id(token)
        return number if self._processor.id_to_piece(number) == token else None

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without bos or eos; text that spells a control token stays text."""
        return self._processor.encode(text)

    def decode(self, ids: list[int]) -> str:
        """Text of the ids; pad, bos and eos give nothing."""
        return self._processor.decode(ids)

    def completed_file(self) -> bytes:
        """The file with the loc and seg tokens in it."""
        return self._completed


class HuggingFaceBackend:
    """A tokenizer.json, read so that it gives what PaliGemma's SentencePiece model gives.

    Only the decoding of bytes that are no UTF-8 differs: this library gives one U+FFFD for every byte of such a run,
    SentencePiece keeps the characters in it that are whole.
    """

    file_name = "tokenizer.json"

    def __init__(self, file: bytes, path: str):
        self._file = file
        try:
            content: dict[str, Any] = parse_json(file, path, remedy="name a file that is one", half_characters=True)
            # The control tokens alone are hidden from the text. Other tokens that the file calls special, such as
            # `<start_of_turn>`, are ordinary user-defined pieces of the SentencePiece model.
            for token in content["added_tokens"]:
                token["special"] = token["content"] in SPECIAL_TOKENS or token["content"] == IMAGE_TOKEN
            content |= {"truncation": None, "padding": None}
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # the library raises nothing narrower
            raise MalformedFile(
                f"{path}: data.tokenizer is not a Hugging Face tokenizer.json ({reason_of(error, 120)}); name a file "
                "that is one, or a tokenizer.model, or '' to train one"
            ) from error
        self._lacks_locations = not _all_or_none(set(self._tokenizer.get_vocab()), LOC_TOKENS + SEG_TOKENS, path)
        if self._lacks_locations:
            _add_location_tokens(self._tokenizer)
        # Without this a question that spells `<eos>` or `<image>` would hold that token.
        self._tokenizer.encode_special_tokens = True

    @property
    def vocab_size(self) -> int:
        """One more than the highest id that text can become."""
        ids = self._tokenizer.get_vocab()
        highest = max(ids.values())
        # `<image>` only stands in Hugging Face's sequences, where image features replace it. After everything else it
        # needs no row of the embedding table; PaliGemma's own 257,152 tokens are counted without it.
        return highest if ids.get(IMAGE_TOKEN) == highest else highest + 1

    def special_ids(self) -> tuple[int | None, ...]:
        """Ids of pad, eos and bos, and of what is in no token."""
        return tuple(self.token_id(token) for token in SPECIAL_TOKENS)

    def token_id(self, token: str) -> int | None:
        """The id of a token, None if there is no such token."""
        return self._tokenizer.token_to_id(token)

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without bos or eos; text that spells a control token stays text."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        """Text of the ids; pad, bos and eos give nothing."""
        # skip_special_tokens would leave out `<unk>` and `<image>` too, and hide that a model writes them.
        return self._tokenizer.decode([i for i in ids if i not in (PAD_ID, EOS_ID, BOS_ID)], skip_special_tokens=False)

    def completed_file(self) -> bytes:
        """The file with the loc and seg tokens in it."""
        if not self._lacks_locations:
            return self._file
        tokenizer = tokenizers.Tokenizer.from_str(self._file.decode())
        _add_location_tokens(tokenizer)
        return tokenizer.to_str().encode()


def load_backend(file: bytes, path: str) -> SentencePieceBackend | HuggingFaceBackend:
    """Tells the kind by the first byte: a SentencePiece model, a protocol buffer, never starts with a brace.

    Raises:
      DataError: the file is of neither kind, or has some loc and seg tokens but not all.
    """
    if what := disguise(file[:HEAD]):
        raise MalformedFile(f"{path}: data.tokenizer is {what}")
    return HuggingFaceBackend(file, path) if file.startswith(b"{") else SentencePieceBackend(file, path)


def with_location_pieces(model: bytes, path: str, *, newline: bool = False) -> bytes:
    """The SentencePiece model with loc and seg pieces appended, where it has none; `newline` puts that one before them.

    Raises:
      DataError: it has some of them, but not all.
    """
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model)
    wanted = ((NEWLINE,) if newline else ()) + LOC_TOKENS + SEG_TOKENS
    if _all_or_none({piece.piece for piece in proto.pieces}, wanted, path):
        return model
    for token in wanted:
        proto.pieces.add(piece=token, score=0.0, type=proto.SentencePiece.USER_DEFINED)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)


def _add_location_tokens(tokenizer: tokenizers.Tokenizer) -> None:
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in LOC_TOKENS + SEG_TOKENS])


def _all_or_none(known: set[str], wanted: tuple[str, ...], path: str) -> bool:
    present = sum(token in known for token in wanted)
    if 0 < present < len(wanted):
        raise MalformedFile(
            f"{path}: data.tokenizer has {present} of {len(wanted)} loc and seg tokens; use one with all or none"
        )
    return present > 0
