"""Text to ids and back with PaliGemma's loc and seg tokens: the published tokenizer, or a small one of the corpus."""

import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import sentencepiece

from data_pipelines.core.atomic_files import write_atomically
from data_pipelines.core.errors import InvalidSetting, MalformedFile, MissingData, UnreadableFile
from data_pipelines.text import tokenizer_backends
from data_pipelines.text.tokenizer_backends import BOS_ID, EOS_ID, LOC_TOKENS, NEWLINE, PAD_ID, UNK_ID

# Published embeddings are padded with rows that no token has: to 257,216 from 257,152 ids and `<image>`.
_MOST_PADDING_ROWS = 128


class Tokenizer:
    """Text to ids and back, as PaliGemma does it. Pickles whole, so worker processes need no file.

    A file without loc and seg tokens (Gemma's own, 256,000 pieces) gets them appended: `<loc0000>` is the id after
    its last one, `<seg000>` the id after `<loc1023>`.

    Attributes:
      path: the file that was loaded.
      file: its bytes, before anything was appended.
      file_name: what such a file is called: tokenizer.model (SentencePiece) or tokenizer.json (Hugging Face).
      sha256: of `file`.
      vocab_size: ids, loc and seg tokens included (257,152 for PaliGemma's); an `<image>` after them is left out.
      newline_id: the token between prefix and suffix (108 in PaliGemma's).
      loc_id: id of `<loc0000>`; the other loc tokens follow it.
    """

    pad_id = PAD_ID
    eos_id = EOS_ID
    bos_id = BOS_ID

    def __init__(self, file: bytes, path: str):
        """Builds from the bytes of a SentencePiece model or of a tokenizer.json.

        Raises:
          DataError: neither of the two, or one whose special tokens are not PaliGemma's.
        """
        self.path = path
        self.file = file
        self.sha256 = hashlib.sha256(file).hexdigest()
        self._backend = tokenizer_backends.load_backend(file, path)
        self.file_name = self._backend.file_name

        def malformed(fault: str) -> MalformedFile:
            return MalformedFile(f"{path}: data.tokenizer {fault}; name PaliGemma's own file, or '' to train one")

        *found, unknown = self._backend.special_ids()
        if tuple(found) != (PAD_ID, EOS_ID, BOS_ID):
            raise malformed(f"has (pad, eos, bos) = {tuple(found)}, PaliGemma's are {(PAD_ID, EOS_ID, BOS_ID)}")
        newline = self._backend.encode(NEWLINE)
        if len(newline) != 1 or newline[0] == unknown:
            raise malformed(f"has no single token for the newline (it gives {newline})")
        self.newline_id: int = newline[0]
        locations = self._backend.encode("".join(LOC_TOKENS))
        self.loc_id: int = locations[0]
        if locations != list(range(self.loc_id, self.loc_id + len(LOC_TOKENS))):
            wanted = f"{LOC_TOKENS[0]} to {LOC_TOKENS[-1]} as {len(LOC_TOKENS)} consecutive ids"
            raise malformed(f"does not read {wanted} (it gives {locations[:3]}, ...)")
        self.vocab_size: int = self._backend.vocab_size

    def fits(self, rows: int) -> bool:
        """Whether an embedding of so many rows can be this tokenizer's: a row for every id, and few more."""
        return 0 <= rows - self.vocab_size < _MOST_PADDING_ROWS

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a tokenizer file.

        Raises:
          DataError: the file is missing, unreadable or no such file.
        """
        try:
            file = Path(path).read_bytes()
        except OSError as error:
            raise UnreadableFile(
                f"{path}: data.tokenizer cannot be read ({error.strerror}); correct the path"
            ) from error
        return cls(file, str(path))

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without bos or eos."""
        return self._backend.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; the caller cuts at eos. Loc tokens give `<loc0123>`; pad, bos and eos nothing."""
        return self._backend.decode([int(i) for i in ids])

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name, None if there is no such token."""
        return self._backend.token_id(token)

    def completed_file(self) -> bytes:
        """`file` with the loc and seg tokens in it, for others to read; `file` itself where it has them."""
        return self._backend.completed_file()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.file, self.path)


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
        raise MissingData(f"{path}: no text to train a tokenizer on; check data.source and data.train_split")
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
        raise InvalidSetting(
            f"data.tokenizer_vocab = {vocab_size} is too small for a corpus of {characters} distinct characters "
            f"(and 256 bytes); raise it to {characters + 300} or more"
        ) from error
    model = tokenizer_backends.with_location_pieces(trained.getvalue(), str(path), newline=True)
    write_atomically(Path(path), model)
    return Tokenizer(model, str(path))
