"""The tokenizer files of a Hugging Face folder, from PaliGemma's SentencePiece model or from a tokenizer.json.

Written without transformers; AutoTokenizer and PaliGemmaProcessor of its versions 4.57 and 5 read the result.
"""

import logging
from typing import Any

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from data_pipelines.text.tokenizer import Tokenizer
from data_pipelines.text.tokenizer_backends import IMAGE_TOKEN, SPECIAL_TOKENS
from rllava_jax.interop.errors import UnsupportedExport
from rllava_jax.interop.remote_files import json_file

logger = logging.getLogger(__name__)

# Every file that a tokenizer may be written as.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")

SPACE = "▁"  # how a piece writes a space
_GEMMA_CONTEXT = 8192


def huggingface_tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """File names to contents: what a folder needs beside config.json and weights for its text to be tokenised.

    A tokenizer.json is passed on as it came, with loc, seg and `<image>` appended where it lacked them. From a
    SentencePiece model one is built that gives the same ids for any text; only `<pad>`, `<eos>`, `<bos>`, `<unk>` and
    `<image>` differ, which Hugging Face reads as tokens where text spells them. The model comes along with its loc and
    seg pieces, as PaliGemma publishes it, for the readers that know no tokenizer.json.

    Raises:
      DataError: not a byte-pair tokenizer in Gemma's manner, which is all that Hugging Face's Gemma classes read.
    """
    if tokenizer.file_name == "tokenizer.model":
        built = _from_sentencepiece(tokenizer)
        files = {"tokenizer.json": built.to_str(pretty=True).encode(), "tokenizer.model": tokenizer.completed_file()}
    else:
        file, built = _with_image_token(tokenizer)
        files = {"tokenizer.json": file}
    # Settings beside the tokens are right or wrong together: `<image>` must be where image_token_id promised.
    if built.token_to_id(IMAGE_TOKEN) != image_token_id(tokenizer):
        raise UnsupportedExport(
            f"{tokenizer.path}: {IMAGE_TOKEN} would be token {built.token_to_id(IMAGE_TOKEN)}, not "
            f"{image_token_id(tokenizer)}, because the ids have gaps; use PaliGemma's own tokenizer"
        )
    return files | {
        "tokenizer_config.json": json_file(_tokenizer_config(built)),
        "special_tokens_map.json": json_file(
            {
                "additional_special_tokens": [_flags(AddedToken(IMAGE_TOKEN, normalized=False))],
                **{f"{name[1:-1]}_token": _flags(AddedToken(name, normalized=False)) for name in SPECIAL_TOKENS},
            }
        ),
    }


def image_token_id(tokenizer: Tokenizer) -> int:
    """The id of `<image>` in Hugging Face's sequences: the tokenizer's own, or the first one that is free."""
    own = tokenizer.token_id(IMAGE_TOKEN)
    return tokenizer.vocab_size if own is None else own


def _with_image_token(tokenizer: Tokenizer) -> tuple[bytes, tokenizers.Tokenizer]:
    file = tokenizer.completed_file()
    built = tokenizers.Tokenizer.from_str(file.decode())
    if not isinstance(built.model, models.BPE):
        raise UnsupportedExport(
            f"{tokenizer.path}: model.type = {type(built.model).__name__!r}, Hugging Face's Gemma classes read 'BPE' "
            "alone; use PaliGemma's own tokenizer"
        )
    added = built.get_added_tokens_decoder().values()
    if any(token.content == IMAGE_TOKEN and token.special for token in added) and built.post_processor:
        return file, built
    built.add_special_tokens([AddedToken(IMAGE_TOKEN, normalized=False, special=True)])
    built.post_processor = built.post_processor or _begin_with_bos()
    return built.to_str(pretty=True).encode(), built


def _from_sentencepiece(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(tokenizer.completed_file())
    _check_gemmas_manner(proto, tokenizer.path)
    kind = proto.SentencePiece
    # Gemma's names for the first four, whatever the model calls its control pieces (`</s>` and `<s>` by default).
    names = list(SPECIAL_TOKENS) + [piece.piece for piece in proto.pieces[len(SPECIAL_TOKENS) :]]
    if len(set(names)) < len(names):
        twice = next(name for name in SPECIAL_TOKENS if names.count(name) > 1)
        raise UnsupportedExport(
            f"{tokenizer.path}: another piece is called {twice!r} too; use PaliGemma's own tokenizer"
        )
    scores = {piece.piece: piece.score for piece in proto.pieces if piece.type == kind.NORMAL}
    spelt = _spell_out_bytes(names, scores, tokenizer.path)
    built = tokenizers.Tokenizer(
        models.BPE(
            vocab={name: number for number, name in enumerate(names)},
            merges=_merges(scores, spelt),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    built.normalizer = normalizers.Replace(" ", SPACE)
    # Cuts nothing, there being no space left: merges run across ▁ as SentencePiece's do. Gemma's own file has it.
    built.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    built.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    built.post_processor = _begin_with_bos()
    special = {*SPECIAL_TOKENS, IMAGE_TOKEN}
    added = [
        # `normalized` tokens are looked for after spaces became ▁, the others before.
        AddedToken(name, special=name in special, normalized=name not in special and SPACE in name)
        for name, piece in zip(names, proto.pieces, strict=True)
        if name in special or piece.type == kind.USER_DEFINED
    ]
    if IMAGE_TOKEN not in names:
        added.append(AddedToken(IMAGE_TOKEN, special=True, normalized=False))
    built.add_tokens(added)
    return built


def _check_gemmas_manner(proto: Any, path: str) -> None:
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    wrong = {
        "trainer_spec.model_type": (trainer.ModelType.Name(trainer.model_type), "BPE"),
        "trainer_spec.treat_whitespace_as_suffix": (trainer.treat_whitespace_as_suffix, False),
        "trainer_spec.unk_id": (trainer.unk_id, SPECIAL_TOKENS["<unk>"]),
        "normalizer_spec.add_dummy_prefix": (normalizer.add_dummy_prefix, False),
        "normalizer_spec.remove_extra_whitespaces": (normalizer.remove_extra_whitespaces, False),
        "normalizer_spec.escape_whitespaces": (normalizer.escape_whitespaces, True),
        "normalizer_spec.precompiled_charsmap": (len(normalizer.precompiled_charsmap), 0),
        "pieces of type UNUSED": (sum(p.type == proto.SentencePiece.UNUSED for p in proto.pieces), 0),
    }
    for field, (found, wanted) in wrong.items():
        if found != wanted:
            raise UnsupportedExport(
                f"{path}: {field} = {found!r}, Hugging Face's Gemma tokenizer stands for {wanted!r}; "
                "use PaliGemma's own tokenizer, or '' for data.tokenizer to train one"
            )


def _spell_out_bytes(names: list[str], scores: dict[str, float], path: str) -> set[str]:
    """Gives the byte piece of a character its plain name in `names` where merges need it; returns these characters.

    SentencePiece merges over characters that are no pieces themselves; here every part of a merge must be a token.
    For an ASCII character that is its byte's token (the published conversion of Gemma's model does so for the tab).
    No other character has a token of one byte; the longer pieces with one in them cannot be reached here.
    """
    missing = {character for piece in scores if len(piece) > 1 for character in piece} - set(names)
    tokens = {character: f"<0x{ord(character):02X}>" for character in missing if character.isascii()}
    spelt = {character for character, token in tokens.items() if token in names}
    for character in spelt:
        names[names.index(tokens[character])] = character
    if missing - spelt:
        logger.warning(
            "%s: tokenizer.json will not have the pieces with %s in them, characters that are no pieces themselves",
            path,
            "".join(sorted(missing - spelt)),
        )
    return spelt


def _merges(scores: dict[str, float], spelt: set[str]) -> list[tuple[str, str]]:
    """All ways to put a piece together from two others, in the order in which SentencePiece would choose them.

    It joins the two neighbours whose joint piece has the highest score, wherever the piece was cut; the library joins
    the pair that stands first in a list. User-defined and byte pieces take no part: the first are cut out of the text
    before, the second are made after.

    Args:
      scores: of the ordinary pieces.
      spelt: characters that are part of pieces but have no score of their own.
    """
    parts = scores.keys() | spelt
    found = [
        (-score, -cut, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in parts and piece[cut:] in parts
    ]
    found.sort()  # of one piece's pairs the one with the longest left part first, as in the published conversion
    return [(left, right) for _, _, left, right in found]


def _begin_with_bos() -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="<bos>:0 $A:0", pair="<bos>:0 $A:0 <bos>:1 $B:1", special_tokens=[("<bos>", SPECIAL_TOKENS["<bos>"])]
    )


def _tokenizer_config(built: tokenizers.Tokenizer) -> dict[str, Any]:
    return {
        "tokenizer_class": "GemmaTokenizer",
        "processor_class": "PaliGemmaProcessor",
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(number): _flags(token) | {"special": token.special}
            for number, token in sorted(built.get_added_tokens_decoder().items())
        },
        "additional_special_tokens": [IMAGE_TOKEN],
        **{f"{name[1:-1]}_token": name for name in SPECIAL_TOKENS},
        # Transformers 5 adds a token of this name, past the embedding table, to a vocabulary without one.
        "mask_token": "<mask>" if built.token_to_id("<mask>") is not None else None,
        "clean_up_tokenization_spaces": False,
        "spaces_between_special_tokens": False,
        # Generation continues at the right, so padding must stand at the left. It is what Gemma's classes do by
        # themselves; PaliGemma's published files leave it to them, and with another class it would go wrong.
        "padding_side": "left",
        "model_max_length": _GEMMA_CONTEXT,
    }


def _flags(token: AddedToken) -> dict[str, Any]:
    return {name: getattr(token, name) for name in ("content", "lstrip", "normalized", "rstrip", "single_word")}
