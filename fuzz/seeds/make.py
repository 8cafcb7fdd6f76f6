"""The smallest valid file of each format that the fuzz targets have no test data of; run it in this folder.

llama2c/*.bin: checkpoints of one layer, as `export.py` of llama2.c writes them (legacy, version 1, version 2).
llama2c_tokenizer/tokenizer.bin: five pieces.
packed/packed-index.bin: what `fuzz_targets/packed.rs` reads, an offset and a length and the index of `docs/packed.md` for one tensor.
tokenizer_model/{bpe,unigram}-tokenizer.model: `ModelProto` of `sentencepiece_model.proto`, written field by field.
"""

import struct
from pathlib import Path

DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, CONTEXT, GROUP = 4, 4, 1, 2, 1, 5, 2, 4
FIELDS = struct.pack("<7i", DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCAB, CONTEXT)
KV = DIM // HEADS * KV_HEADS
MATRICES = [DIM * DIM, KV * DIM, KV * DIM, DIM * DIM, HIDDEN * DIM, HIDDEN * DIM, HIDDEN * DIM, VOCAB * DIM]
NORMS = (2 * LAYERS + 1) * DIM


def write(name, data):
    path = Path(__file__).parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)


def floats(n):
    return struct.pack(f"<{n}f", *(((7 * i) % 11 - 5) / 8 for i in range(n)))


def groups(n):
    """Signed bytes, then one scale for each group of them."""
    return bytes((7 * i) % 256 for i in range(n)) + floats(n // GROUP)


def packed():
    """Three rows of a block of 34 bytes behind a header of 100 and before ten bytes more, packed in two blocks of 60 and 40."""
    frequencies = struct.pack("<256H", 2048 - 255, *([1] * 255))
    planes = [struct.pack("<2I", 1, 0), struct.pack("<2I", 1, 1) + frequencies, struct.pack("<2I", 32, 0)]
    code = struct.pack("<2I", 34, len(planes)) + b"".join(planes)
    tensor = struct.pack("<2Q5I", 100, 3, 34, 2, 0, 60, 40)
    index = struct.pack("<IQ", 1, 50) + struct.pack("<I", 1) + code + struct.pack("<I", 1) + tensor
    write("packed/packed-index.bin", struct.pack("<IQ", 210, 212) + index)


def llama2c():
    weights = floats(sum(MATRICES) + NORMS)
    write("llama2c/legacy-llama2c.bin", FIELDS + weights + floats(CONTEXT * DIM // HEADS))
    magic = struct.pack("<Ii", 0x616B3432, 1) + FIELDS + b"\x01"
    write("llama2c/v1-llama2c.bin", magic.ljust(256, b"\0") + weights)
    magic = struct.pack("<Ii", 0x616B3432, 2) + FIELDS + b"\x01" + struct.pack("<i", GROUP)
    write("llama2c/v2-llama2c.bin", magic.ljust(256, b"\0") + floats(NORMS) + b"".join(map(groups, MATRICES)))


def tokenizer_bin():
    pieces = [b"<unk>", b"\n<s>\n", b"\n</s>\n", b"<0x0A>", b" a"]
    body = b"".join(struct.pack("<fi", -i, len(piece)) + piece for i, piece in enumerate(pieces))
    write("llama2c_tokenizer/tokenizer.bin", struct.pack("<i", 8) + body)


def field(number, value):
    """One protobuf field: an integer, a float, or bytes with their length; each shorter than 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    return bytes([number << 3 | 2, len(value)]) + value


def tokenizer_model():
    unknown, control, byte = 2, 3, 6
    pieces = [("<unk>", unknown), ("<s>", control), ("</s>", control), ("<0x0A>", byte), ("\u2581", 1), ("\u2581a", 1), ("a", 1)]
    listed = b"".join(
        field(1, field(1, piece.encode()) + field(2, -float(i)) + (field(3, kind) if kind != 1 else b""))
        for i, (piece, kind) in enumerate(pieces)
    )
    normalizer = field(3, field(1, b"identity") + field(3, 1) + field(4, 0))
    for name, model_type in [("unigram", 1), ("bpe", 2)]:
        trainer = field(2, field(3, model_type) + field(4, len(pieces)))
        write(f"tokenizer_model/{name}-tokenizer.model", listed + trainer + normalizer)


llama2c()
packed()
tokenizer_bin()
tokenizer_model()
