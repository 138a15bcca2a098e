"""The tokenizer of a checkpoint: its files, how it is loaded, and the digest of what it does."""

import json
from pathlib import Path
from typing import Any

from not_core import canonical
from not_core.errors import CheckpointError

TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATES = "additional_chat_templates"
"""Folder with a chat template a file, beside the one that has no name."""
TEMPLATE = ".jinja"
FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    TOKENIZER_CONFIG,
    "vocab.json",
    "vocab.txt",
)
"""Files of a tokenizer; others are left behind."""
FILE_BYTES = 256 * 1024 * 1024
"""Largest file of a tokenizer that is read or copied."""
MOST_TEMPLATES = 100
"""Most named chat templates that are copied."""

# How texts are cut off or filled up is a caller's business, and kept with a tokenizer by chance.
_STATE = ("padding", "truncation")


def files_of(origin: Path) -> tuple[str, ...]:
    """The files of a tokenizer in a model folder, relative to it.

    Raises:
        CheckpointError: There are more chat templates than any model has.
    """
    named = sorted(
        f"{TEMPLATES}/{file.name}"
        for file in (origin / TEMPLATES).glob(f"*{TEMPLATE}")
        if file.is_file()
    )
    if len(named) > MOST_TEMPLATES:
        raise CheckpointError(
            f"{origin / TEMPLATES} holds {len(named)} chat templates, more than {MOST_TEMPLATES}; "
            "get an undamaged copy"
        )
    return (*(name for name in FILES if (origin / name).is_file()), *named)


def load(origin: Path) -> Any:
    """Load the Hugging Face tokenizer of a model folder or GGUF file.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    single = origin.is_file()
    try:
        return AutoTokenizer.from_pretrained(
            origin.parent if single else origin,
            gguf_file=origin.name if single else None,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever its parsers raise; Rust's panics are no Exception
        raise CheckpointError(
            f"the tokenizer in {origin} cannot be loaded ({type(error).__name__}); "
            "get undamaged copies of tokenizer.json and its config"
        ) from error


def digest(tokenizer: Any) -> str:
    """SHA-256 of all that decides which ids a text becomes.

    Of a fast tokenizer: vocabulary, merges, normalizer, pre-tokenizer, post-processor, decoder and
    added tokens with their flags. Of a slow one, which has no such form: vocabulary, added tokens
    and special ids.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        parts = json.loads(backend.to_str())
        return canonical.digest({key: parts[key] for key in parts.keys() - {*_STATE}})
    added = {
        str(number): [str(token), token.special, token.lstrip, token.rstrip, token.normalized]
        for number, token in tokenizer.added_tokens_decoder.items()
    }
    special = sorted(tokenizer.all_special_ids)
    return canonical.digest([tokenizer.get_vocab(), added, special])
