"""Small trained tokenizers of the kinds that models have, for the tests of everything that touches text."""

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = (
    "Once upon a time there was a little girl who loved cats, dogs and ice cream. She lived by the sea.",
    "I can't believe it's not butter! Isn't it? They've said: 'we're here', and I'm sure that he doesn't mind .",
    "def add(a, b):\n    return a + b\n\n\tprint(add(1, 2))  # 3\n",
    "naïve café, süß und schön, ½ Liter, ça va, señor",
    "日本語のテキスト、漢字とかな。中文也可以没有空格。한국어도 있어요.",
    "😀😃😄 😀😀 👩‍👩‍👧 🏳️‍🌈 👍🏽 family and flags 🇩🇪🇯🇵",
    "ภาษาไทยไม่มีช่องว่าง မြန်မာဘာသာ हिन्दी العربية",
)

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
SPECIAL_TOKENS = (UNKNOWN, BEGIN, END, "<|user|>", "<|assistant|>")


@cache
def byte_level() -> Tokenizer:
    """Byte-level BPE as in GPT-2 and Qwen. Its `ö` and `½` are added as text, which its decoder takes for bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=480, initial_alphabet=alphabet, special_tokens=[*SPECIAL_TOKENS], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens(["ö", "½", "日本"])
    return tokenizer


@cache
def sentencepiece_like() -> Tokenizer:
    """BPE with byte fallback and a leading space, as in Llama 2. Adds a BOS token. Rare characters are bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=480, limit_alphabet=70, special_tokens=[*SPECIAL_TOKENS, *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _as_llama(tokenizer)


@cache
def unigram() -> Tokenizer:
    """Unigram with Metaspace, as in T5."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, unk_token=UNKNOWN, special_tokens=[*SPECIAL_TOKENS], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@cache
def word_piece() -> Tokenizer:
    """WordPiece as in BERT: words are joined by spaces, some of which the decoder, and transformers, clean up."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=[*SPECIAL_TOKENS], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@cache
def word_level() -> Tokenizer:
    """Whole words, no decoder at all: tokens are joined by spaces. One token has no text."""
    words = sorted({word for line in CORPUS for word in line.split()})
    tokens = [*SPECIAL_TOKENS, "", *words]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([*SPECIAL_TOKENS])
    return tokenizer


def _as_llama(trained: Tokenizer) -> Tokenizer:
    """The same vocabulary, split as SentencePiece splits; byte tokens are ordinary tokens."""
    state = json.loads(trained.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    state["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return tokenizer
