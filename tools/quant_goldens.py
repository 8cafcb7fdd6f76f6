"""Makes blocks of random bytes of every quantized type, and the floats that the `gguf` package reads from them, or would.

Usage: python tools/quant_goldens.py FOLDER [--blocks 4] [--seed 1]
Needs the packages numpy and gguf (see tools/test_requirements.txt).

It writes FOLDER/<type>.bin for each type: the blocks, then their values as little-endian floats. Every byte is random
but those of the half-float scales, which are any finite number. The types of the any-width family are read here, by what
docs/any-width.md says of them. The test crates/core/tests/quant_goldens.rs reads them;
those in testdata/quant were made with 4 blocks.
"""

import argparse
import re
from pathlib import Path

import numpy
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Where a block of each type holds half floats. IQ1_M, which has its scale in four pieces, and MXFP4, whose scale is an
# exponent, have none.
HALF_FLOATS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [], "TQ1_0": [52], "TQ2_0": [64],
    "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0], "IQ1_S": [0], "IQ1_M": [],
}
# Types that the package does not read, and where they hold half floats.
NEWER = {"Q1_0": [0], "Q2_0": [0]}


def finite(halves):
    """The half floats with these bits, where they are numbers, and others where not: an exponent of ones loses one."""
    return numpy.where(halves & 0x7C00 == 0x7C00, halves ^ 0x0400, halves).astype("<u2")


def random_blocks(name, n_blocks, numbers):
    n_bytes = 18 if name in NEWER else GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
    blocks = numbers.integers(0, 256, (n_blocks, n_bytes), dtype=numpy.uint8)
    for at in (HALF_FLOATS | NEWER)[name]:
        blocks[:, at : at + 2] = finite(blocks[:, at : at + 2].copy().view("<u2")).view(numpy.uint8)
    if name == "IQ1_M":
        # The upper half of the last byte holds the sign and the upper three bits of the exponent.
        blocks[:, 55] ^= numpy.where(blocks[:, 55] & 0x70 == 0x70, 0x40, 0).astype(numpy.uint8)
    return blocks


def read(blocks, name):
    """The values of blocks; the `gguf` package does not read the last two, whose map is that of ggml's `dequantize_row`."""
    d = blocks[:, :2].copy().view("<f2").astype("<f4")
    if name == "Q1_0":
        return numpy.where(numpy.unpackbits(blocks[:, 2:], axis=1, bitorder="little"), d, -d)
    if name == "Q2_0":
        codes = blocks[:, 2:, None] >> numpy.array([0, 2, 4, 6], dtype=numpy.uint8) & 3
        return d * (codes.reshape(len(blocks), -1).astype("<f4") - 1)
    return dequantize(blocks, GGMLQuantizationType[name])


ANY_WIDTH = {"Q2_W": 2, "Q3_W": 3, "Q4_W": 4, "Q5_W": 5, "Q6_W": 6, "Q8_W": 8}


def any_width_levels():
    """The tables of docs/any-width.md, by bits."""
    page = (Path(__file__).parent.parent / "docs" / "any-width.md").read_text()
    tables = re.findall(r"### (\d) bits\n\n```levels\n(.*?)```", page, re.DOTALL)
    return {int(bits): [int(level) for level in table.split()] for bits, table in tables}


def any_width_values(block, bits, levels):
    """The 64 weights of one block, as docs/any-width.md defines them."""
    exponent, mantissa = block[0] >> 3, block[0] & 7
    scale = (1 + mantissa / 8) * 2.0 ** (exponent - 30) if block[0] else 0.0
    if bits == 8:
        return [scale * (code - 256 if code > 127 else code) for code in block[1:]]
    stream = int.from_bytes(bytes(block), "little")
    return [scale * levels[bits][stream >> (8 + (i + 1) * bits - 6) & 63] for i in range(64)]


def write(folder, name, blocks, values):
    (folder / f"{name}.bin").write_bytes(blocks.tobytes() + numpy.asarray(values).astype("<f4").tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    numbers = numpy.random.default_rng(options.seed)
    for name in HALF_FLOATS:
        blocks = random_blocks(name, options.blocks, numbers)
        with numpy.errstate(over="ignore"):  # The largest exponents of MXFP4 give infinities, as they do in ggml.
            values = read(blocks, name)
        write(options.folder, name, blocks, values)
    levels = any_width_levels()
    for name, bits in ANY_WIDTH.items():
        blocks = numbers.integers(0, 256, (options.blocks, 1 + 8 * bits), dtype=numpy.uint8)
        write(options.folder, name, blocks, [any_width_values(block.tolist(), bits, levels) for block in blocks])
    for name in NEWER:
        blocks = random_blocks(name, options.blocks, numbers)
        write(options.folder, name, blocks, read(blocks, name))


if __name__ == "__main__":
    main()
