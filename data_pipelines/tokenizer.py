"""SentencePiece with PaliGemma's loc and seg tokens: the published model, or a small one trained on the corpus."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from data_pipelines.records import DataError

LOC_TOKENS = tuple(f"<loc{i:04d}>" for i in range(1024))
SEG_TOKENS = tuple(f"<seg{i:03d}>" for i in range(128))
NEWLINE = "\n"

PAD_ID, EOS_ID, BOS_ID, UNK_ID = 0, 1, 2, 3


class Tokenizer:
    """Text to ids and back, as PaliGemma does it. Pickles whole, so worker processes need no file.

    A model without loc and seg pieces (Gemma's own, 256,000 pieces) gets them appended: `<loc0000>` is the id after
    its last piece, `<seg000>` the id after `<loc1023>`. They become user-defined pieces of the model itself: they are
    cut out of the text before anything else is, and the text around them is tokenised as SentencePiece does it.

    Attributes:
      path: the file that was loaded.
      sha256: of that file, before anything was appended.
      vocab_size: ids, loc and seg tokens included (257,152 for PaliGemma's).
      newline_id: the token between prefix and suffix (108 in PaliGemma's).
      loc_id: id of `<loc0000>`.
    """

    pad_id = PAD_ID
    eos_id = EOS_ID
    bos_id = BOS_ID

    def __init__(self, model: bytes, path: str):
        """Builds from the bytes of a SentencePiece model file.

        Raises:
          DataError: not a SentencePiece model, or one whose special tokens are not PaliGemma's.
        """
        self.path = path
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._model = model
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise DataError(
                f"{path}: data.tokenizer is not a SentencePiece model; name a .model file, or '' to train one"
            ) from error
        processor.LoadFromSerializedProto(_with_location_pieces(model, path))
        found = (processor.pad_id(), processor.eos_id(), processor.bos_id())
        if found != (PAD_ID, EOS_ID, BOS_ID):
            raise DataError(
                f"{path}: data.tokenizer has (pad, eos, bos) = {found}, PaliGemma's are "
                f"{(PAD_ID, EOS_ID, BOS_ID)}; name PaliGemma's own file, or '' to train one"
            )
        newline = processor.encode(NEWLINE)
        if len(newline) != 1 or newline[0] == processor.unk_id():
            raise DataError(
                f"{path}: data.tokenizer has no single token for the newline (it gives {newline}); "
                "name PaliGemma's own file, or '' to train one"
            )
        self.newline_id: int = newline[0]
        self.loc_id: int = processor.piece_to_id(LOC_TOKENS[0])
        self.vocab_size: int = processor.get_piece_size()
        self._processor = processor

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Reads a SentencePiece model file.

        Raises:
          DataError: the file is missing, unreadable or no such model.
        """
        try:
            model = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"{path}: data.tokenizer cannot be read ({error.strerror}); correct the path") from error
        return cls(model, str(path))

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without bos or eos."""
        return self._processor.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; the caller cuts at eos. Loc tokens give `<loc0123>`; pad, bos and eos nothing."""
        return self._processor.decode([int(i) for i in ids])

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["model"], state["path"])  # type: ignore[misc]


def train_tokenizer(texts: Iterable[str], path: str | os.PathLike[str], *, vocab_size: int) -> Tokenizer:
    """Trains a small byte-pair SentencePiece model in Gemma's manner, writes it and loads it.

    Bytes stand in for unknown characters, digits are single, no normalisation, no dummy prefix; then come the newline,
    the loc and the seg tokens. The same texts in the same order give the same file.

    Args:
      texts: the corpus. Newlines in it separate sentences.
      path: the model file; written whole or not at all.
      vocab_size: pieces beside newline, loc and seg. A corpus too small for it gives what it supports.

    Raises:
      DataError: no text, or more distinct characters than `vocab_size` can hold.
    """
    sentences = [line for text in texts for line in text.split("\n") if line.strip()]
    if not sentences:
        raise DataError(f"{path}: no text to train a tokenizer on; check data.source and data.train_split")
    trained = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=trained,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            split_digits=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            bos_id=BOS_ID,
            unk_id=UNK_ID,
            max_sentence_length=1 << 20,  # the default of 4192 bytes drops longer sentences silently
            num_threads=1,  # for the same file every time
            minloglevel=2,
        )
    except RuntimeError as error:
        characters = len(set("".join(sentences)))
        raise DataError(
            f"data.tokenizer_vocab = {vocab_size} is too small for a corpus of {characters} distinct characters "
            f"(and 256 bytes); raise it to {characters + 300} or more"
        ) from error
    model = _with_location_pieces(trained.getvalue(), str(path), newline=True)
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    temporary.write_bytes(model)
    os.replace(temporary, path)
    return Tokenizer(model, str(path))


def _with_location_pieces(model: bytes, path: str, *, newline: bool = False) -> bytes:
    """The model with loc and seg pieces appended, where it has none; with `newline`, that piece before them."""
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model)
    known = {piece.piece for piece in proto.pieces}
    wanted = ((NEWLINE,) if newline else ()) + LOC_TOKENS + SEG_TOKENS
    present = [token for token in wanted if token in known]
    if present and len(present) < len(wanted):
        raise DataError(
            f"{path}: data.tokenizer has {len(present)} of {len(wanted)} loc and seg tokens; use one with all or none"
        )
    if present:
        return model
    for token in wanted:
        proto.pieces.add(piece=token, score=0.0, type=proto.SentencePiece.USER_DEFINED)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)
