"""Makes the rows that crates/compress/tests/encoders.rs writes in every type, and the errors of ggml's quantizers on them.

Usage: python tools/encoder_goldens.py testdata/encoders
Needs what tools/llama_cpp_encoders.py needs.

It writes rows.f32 (8 rows of 512 columns with heavy tails), importance.f32 (one number for each column), errors.tsv (each type
and the weighted error of what ggml writes), and <type>.bin for the types that the `gguf` package writes itself, without
importances. ternary.f32 is 256 weights of -a, 0 and a, and the ternary types' files are made of these.
"""

import sys
from pathlib import Path

import gguf
import numpy
from gguf.quants import quantize
from llama_cpp_encoders import TYPES, Kind, by_ggml, ggml

WRITTEN_BY_GGUF = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
TERNARY = ["TQ1_0", "TQ2_0"]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    numbers = numpy.random.default_rng(55)
    rows = (numbers.standard_t(5, (8, 512)) * 0.05).astype("<f4")
    importance = numpy.exp(numbers.normal(0, 1.5, 512)).astype("<f4")
    ternary = (numbers.integers(-1, 2, (1, 256)) * 0.0375).astype("<f4")
    for name, array in [("rows", rows), ("importance", importance), ("ternary", ternary)]:
        array.tofile(folder / f"{name}.f32")
    library = ggml()
    with open(folder / "errors.tsv", "w") as errors:
        for name in TYPES:
            kind = Kind(name)
            read = kind.read(by_ggml(library, kind, rows, importance)).reshape(rows.shape)
            error = ((read - rows).astype(numpy.float64) ** 2 * importance).sum()
            errors.write(f"{name}\t{error:.7g}\n")
    for name in WRITTEN_BY_GGUF + TERNARY:
        source = ternary if name in TERNARY else rows
        quantize(source, gguf.GGMLQuantizationType[name]).tofile(folder / f"{name}.bin")


if __name__ == "__main__":
    main()
