"""Makes tiny tokenizers of each kind, their GGUFs, and what `tokenizers` and `sentencepiece` make of random strings.

Usage: python tools/tokenizer_vectors.py FOLDER [--strings 60]
Needs the packages tokenizers, sentencepiece and gguf (see tools/test_requirements.txt).

It writes FOLDER/strings.txt, a string on each line, with backslash escapes, and for each kind FOLDER/<kind>.gguf
(metadata only) and FOLDER/<kind>.ids, whose lines are the ids of the strings. The tests of crates/core read them; those in
testdata/tokenizer were made with 60 strings. All byte-level kinds share byte-level.gguf, and the name of the .ids file is
the pre-tokenizer. Their vocabulary is trained without any, so that its merges cross every border that the patterns draw: a
text cut in the wrong place gives other ids. The trainers break ties at random: a second run makes other vocabularies.
"""

import argparse
import io
import json
import random
import re
import unicodedata
from pathlib import Path

import numpy
import sentencepiece
from gguf import GGUFWriter
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

# Patterns as the models' own tokenizer.json files have them (llama.cpp's where it differs, see docs/adr/0010).
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MINICPM5 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")
SEED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
LEAD = r"[^\r\n\p{L}\p{N}]?"
SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = rf"{LEAD}{UPPER}*{LOWER}+{TAIL}|{LEAD}{UPPER}+{LOWER}*{TAIL}|\p{{N}}{{1,3}}{SIGNS}"
TEKKEN = rf"{LEAD}{UPPER}*{LOWER}+|{LEAD}{UPPER}+{LOWER}*|\p{{N}}{SIGNS}"
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
CHINESE = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
WIDE = r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
# The 85 ranges of DeepSeek LLM's letters are written down in one place only.
SETS = Path(__file__).parent.parent / "crates/core/src/tokenizer/pre/sets.rs"
CASED = "".join(rf"\x{{{a}}}-\x{{{b}}}" for a, b in re.findall(r"\(0x(\w+), 0x(\w+)\)", SETS.read_text(encoding="utf-8")))


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
BYTE_LEVEL = {
    "gpt-2": [GPT2],
    "gpt-2+space": [pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), GPT2],
    "falcon": [pre_tokenizers.Punctuation("contiguous"), GPT2, split("[0-9][0-9][0-9]")],
    "default": [split(r"[\p{P}$+<=>^~|]+"), split(GPT2_WORDS), split(r"\p{N}+"), split("[0-9][0-9][0-9]"), BYTES],
    "llama-bpe": [split(LLAMA3), BYTES],
    "qwen2": [split(QWEN2), BYTES],
    "qwen35": [split(QWEN35), BYTES],
    "seed-coder": [split(SEED), BYTES],
    "minicpm5": [split(r"\p{N}{1,3}"), split(MINICPM5), BYTES],
    "gpt-4o": [split(O200K), BYTES],
    "tekken": [split(TEKKEN), BYTES],
    "deepseek-v3": [split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(DEEPSEEK3), BYTES],
    "deepseek-coder": [split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(CHINESE), split(r"\p{N}"), BYTES],
    "deepseek-llm": [
        split(r"[\r\n]"), split(rf"\s?[A-Za-z{CASED}]+"), split(WIDE), split(r"\s+$"), split(CHINESE), split(r"\p{N}+"), BYTES,
    ],
    "bloom": [split(BLOOM), BYTES],
    "viking": [split(BLOOM), split(r"\p{N}"), BYTES],
    "laguna": [split(r"[^\n]+|[\n]+"), split(QWEN2), BYTES],
    "ufakzeka": [split(QWEN2.removeprefix("(?i:'s|'t|'re|'ve|'m|'ll|'d)|")), BYTES],
}
IGNORE_MERGES = {"llama-bpe", "tekken", "minicpm5"}

WORDS = (
    "the and of to a in that it is was I've he's you're they'll we'd don't CamelCase HTTPServer ABC x1 2024 31415 3.14 "
    "über naïve Ærø Füße Ελλάδα нещо Български 中文字符 日本語 ひらがな 한국어 हिन्दी ไทย עברית العربية ½ ² Ⅷ ٣٤ "
    "😀 👩‍💻 é e\u0301 -- ... !? $5 (a) [b] {c} a/b c\\d `code` \"q\" “q” # @ & * + = < > ^ ~ | _"
).split()
SPACES = [" ", " ", " ", " ", "", "", "  ", "   ", "\n", "\n\n", "\t", " \n ", "\r\n", "\u00a0", "\u3000"]


def random_string(rng):
    """Words, numbers and spaces, and now and then any character that Unicode has."""
    parts = []
    for _ in range(rng.randint(0, 10)):
        kind = rng.random()
        if kind < 0.6:
            parts.append(rng.choice(WORDS))
        elif kind < 0.7:
            parts.append(str(rng.randrange(10 ** rng.randint(1, 8))))
        elif kind < 0.8:
            parts.append("".join(rng.choice("aAbBsStTdD'. ") for _ in range(rng.randint(1, 8))))
        else:
            parts += [random_character(rng) for _ in range(rng.randint(1, 3))]
        parts.append(rng.choice(SPACES))
    return "".join(parts)


def random_character(rng):
    """A character that is assigned in the Unicode of Python's own tables, which are older than everybody's."""
    while True:
        limit = rng.choice([0x80, 0x250, 0x600, 0x3000, 0x10000, 0x1FB00, 0x30000])
        code = rng.randrange(1, limit)
        if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co") and code not in (0x17F, 0x212A):
            return chr(code)


def corpus(rng):
    return [random_string(rng) for _ in range(3000)]


def latin_corpus(rng):
    """For trainers that give every character they see a token."""
    return ["".join(c for c in text if ord(c) < 0x250) for text in corpus(rng)]


def escaped(text):
    """Backslash, and what is not printed as itself, as escapes."""
    named = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return "".join(named.get(c, c if c.isprintable() else f"\\u{{{ord(c):x}}}") for c in text)


def write_gguf(folder, kind, metadata):
    writer = GGUFWriter(folder / f"{kind}.gguf", "llama")
    writer.add_tokenizer_model(metadata["model"])
    writer.add_token_list(metadata["tokens"])
    writer.add_token_types(metadata["types"])
    if "scores" in metadata:
        writer.add_token_scores(metadata["scores"])
    if "merges" in metadata:
        writer.add_token_merges(metadata["merges"])
    if "unknown" in metadata:
        writer.add_unk_token_id(metadata["unknown"])
    if "charsmap" in metadata:
        writer.add_precompiled_charsmap(metadata["charsmap"])
    writer.add_add_space_prefix(metadata.get("adds_space", False))
    writer.add_remove_extra_whitespaces(metadata.get("merges_spaces", False))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def write_ids(folder, kind, strings, encode):
    lines = (" ".join(map(str, encode(text))) + "\n" for text in strings)
    (folder / f"{kind}.ids").write_text("".join(lines))


def byte_level_vocabulary(texts):
    """The tokens and merges of a byte-level BPE that was trained on whole texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = BYTES
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=alphabet, limit_alphabet=256, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    vocabulary = tokenizer.get_vocab()
    ranked = sorted((token for token in vocabulary if len(token) > 1), key=vocabulary.get)
    # Its own merges, from the vocabulary: the two halves that were tokens first.
    merges = []
    for token in ranked:
        halves = [(token[:at], token[at:]) for at in range(1, len(token))]
        halves = [pair for pair in halves if all(vocabulary.get(half, 1 << 30) < vocabulary[token] for half in pair)]
        merges.append(min(halves, key=lambda pair: max(vocabulary[half] for half in pair)))
    return vocabulary, merges


def write_byte_level(folder, rng, strings):
    vocabulary, merges = byte_level_vocabulary(corpus(rng))
    tokens = sorted(vocabulary, key=vocabulary.get)
    metadata = {"model": "gpt2", "tokens": tokens, "types": [NORMAL] * len(tokens)}
    metadata["merges"] = [" ".join(pair) for pair in merges]
    write_gguf(folder, "byte-level", metadata)
    for pre, stages in BYTE_LEVEL.items():
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in IGNORE_MERGES))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(stages)
        write_ids(folder, pre, strings, lambda text: tokenizer.encode(text).ids)


SPACED = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def write_llama(folder, rng, strings, has_bytes):
    """Llama's SentencePiece BPE in the terms of `tokenizers`: merges are all pairs of tokens that make a token."""
    special = ["<unk>", "<s>", "</s>"] + (BYTE_TOKENS if has_bytes else [])
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = SPACED
    trainer = trainers.BpeTrainer(vocab_size=700 if has_bytes else 444, special_tokens=special, limit_alphabet=100, show_progress=False)
    trained.train_from_iterator(corpus(rng), trainer)
    vocabulary = trained.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = []
    for token in tokens[len(special) :]:
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [pair for pair in pairs if all(half in vocabulary and half not in special for half in pair)]
        merges += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=has_bytes))
    tokenizer.normalizer = SPACED
    metadata = {
        "model": "llama",
        "tokens": tokens,
        "types": [UNKNOWN, CONTROL, CONTROL] + [BYTE if token in BYTE_TOKENS else NORMAL for token in tokens[3:]],
        "scores": [0.0 if token in special else -float(rank) for rank, token in enumerate(tokens)],
        "unknown": 0,
        "adds_space": True,
    }
    kind = "llama" if has_bytes else "llama-no-bytes"
    write_gguf(folder, kind, metadata)
    write_ids(folder, kind, strings, lambda text: tokenizer.encode(text).ids)


def write_unigram(folder, rng, strings, has_bytes):
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.UnigramTrainer(vocab_size=600, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    trained.train_from_iterator(latin_corpus(rng), trainer)
    pieces = [(piece, score) for piece, score in json.loads(trained.to_str())["model"]["vocab"]]
    if has_bytes:
        pieces = pieces[:1] + [(token, 0.0) for token in BYTE_TOKENS] + pieces[1:]
    # Scores as the file stores them: in 32 bits.
    pieces = [(piece, float(numpy.float32(score))) for piece, score in pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, byte_fallback=has_bytes))
    tokenizer.normalizer = SPACED
    types = [UNKNOWN] + [BYTE if piece in BYTE_TOKENS else NORMAL for piece, _ in pieces[1:]]
    metadata = {"model": "t5", "tokens": [piece for piece, _ in pieces], "scores": [score for _, score in pieces]}
    metadata |= {"types": types, "unknown": 0, "adds_space": True}
    kind = "unigram-bytes" if has_bytes else "unigram"
    write_gguf(folder, kind, metadata)
    write_ids(folder, kind, strings, lambda text: tokenizer.encode(text).ids)


RULES = {
    "\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ", "\r\n": " ", "\r": " ", "½": "1/2", "²": "2", "Ⅷ": "VIII",
    "“": '"', "”": '"', "e\u0301": "é", "…": "...", "\u200d": "", "😀": ":grin:", "Füße": "Fuesse", "Fü": "Fue",
}


def write_sentencepiece(folder, rng, strings, kind, rules=None, **options):
    """What the original makes of the strings; `rules` are its own names for maps of characters, or a table."""
    if isinstance(rules, dict):
        table = folder / "rules.tsv"
        points = lambda text: " ".join(f"{ord(c):X}" for c in text)
        table.write_text("".join(f"{points(key)}\t{points(value)}\n" for key, value in rules.items()))
        options["normalization_rule_tsv"] = str(table)
    else:
        options["normalization_rule_name"] = rules or "identity"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.replace("\n", " ") for text in latin_corpus(rng)),
        model_writer=model,
        hard_vocab_limit=False,
        character_coverage=0.98,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    metadata = {
        "model": "llama" if options["model_type"] == "bpe" else "t5",
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [piece.score for piece in proto.pieces],
        "types": [piece.type for piece in proto.pieces],
        "unknown": proto.trainer_spec.unk_id,
        "adds_space": proto.normalizer_spec.add_dummy_prefix,
        "merges_spaces": proto.normalizer_spec.remove_extra_whitespaces,
    }
    if proto.normalizer_spec.precompiled_charsmap:
        metadata["charsmap"] = proto.normalizer_spec.precompiled_charsmap
    write_gguf(folder, kind, metadata)
    write_ids(folder, kind, strings, lambda text: processor.encode(text))
    (folder / "rules.tsv").unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--strings", type=int, default=60)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(260)
    strings = ["", " ", "  ", "a", " a", "a ", "\n", "Hello world", " Hello  world!\n"]
    strings += [random_string(rng) for _ in range(arguments.strings - len(strings))]
    # A NUL ends a text for some of the libraries, and `▁` is a space for all that escape spaces.
    strings = [text.replace("\0", "").replace("▁", "_") for text in strings]
    lines = "".join(escaped(text) + "\n" for text in strings)
    (arguments.folder / "strings.txt").write_text(lines, encoding="utf-8", newline="")
    write_byte_level(arguments.folder, rng, strings)
    for has_bytes in (True, False):
        write_llama(arguments.folder, rng, strings, has_bytes)
        write_unigram(arguments.folder, rng, strings, has_bytes)
    spm = dict(vocab_size=600, remove_extra_whitespaces=False)
    write_sentencepiece(arguments.folder, rng, strings, "spm-bpe", model_type="bpe", byte_fallback=True, **spm)
    write_sentencepiece(arguments.folder, rng, strings, "spm-unigram", RULES, model_type="unigram", vocab_size=500)
    if arguments.strings >= 1000:
        write_sentencepiece(arguments.folder, rng, strings, "spm-nfkc", "nmt_nfkc", model_type="unigram", vocab_size=500)


main()
