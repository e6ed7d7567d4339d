"""What a checkpoint's tokenizer makes of a prompt: words it does not know, and words it has no room for."""

import re
from typing import Any

WORD = re.compile(r"\w+")


def unknown_words(tokenizer: Any, text: str) -> list[str]:
    """The words of `text` that become the unknown token, in order, each once, lower-cased.

    A byte-pair tokenizer spells every word and knows none too few.
    """
    unknown = tokenizer.unk_token_id
    words = dict.fromkeys(WORD.findall(text.lower()))
    return [word for word in words if unknown in tokenizer(word, add_special_tokens=False).input_ids]


def cut_words(tokenizer: Any, text: str) -> str:
    """The end of `text` that lies beyond the text encoder's length and is not read; empty when all of it is."""
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    words = text.split()
    read = len(words)
    while read and len(tokenizer(" ".join(words[:read]), add_special_tokens=False).input_ids) > room:
        read -= 1
    return " ".join(words[read:])
