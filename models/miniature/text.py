"""The miniature's words: a word-level tokenizer and a small CLIP text encoder.

One word is one token, so a token's attention map is a word's. Words outside the vocabulary become `<unk>`,
which training has taught the network to ignore; `models.backbones.vocabulary` names them for the user.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

MAX_TOKENS = 24
WIDTH = 160
PAD, BEGIN, UNKNOWN, END = "<pad>", "<s>", "<unk>", "</s>"


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is `words`, lower-cased, after the four special tokens.

    Punctuation separates words and is dropped; a hyphen or an apostrophe inside a word is punctuation too.
    """
    pieces = sorted({piece for word in words for piece in _split(word)})
    vocabulary = {token: index for index, token in enumerate([PAD, BEGIN, UNKNOWN, END, *pieces])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A {END}",
        special_tokens=[(BEGIN, vocabulary[BEGIN]), (END, vocabulary[END])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )


def _split(word: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in word.lower()).split()


def build_text_encoder(tokenizer: PreTrainedTokenizerFast, layers: int = 3) -> CLIPTextModel:
    """A CLIP text encoder (arXiv:2103.00020), untrained: (n 24) token ids to (n 24 160) hidden states."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        hidden_act="gelu",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)
