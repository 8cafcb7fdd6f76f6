"""Writes real weights in every block type with ggml's quantizers and with ours, and compares the weighted errors.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy
    cargo build --release -p smidgen-compress --example quantize_rows
    /tmp/peer/bin/python tools/llama_cpp_encoders.py target/release/examples/quantize_rows ../shared/data \
        > bench/record/$(date -u +%F)-encoders.json

Both get the same rows and the same importances, both are read back with the `gguf` package, and the error is the sum of
`importance * (weight - read)^2`. Rows that a type cannot take are cut anew, 256 columns wide. Importances are drawn at
random, one for each column, as far apart as those of real activations (log-normal); `--imatrix FILE` takes those of a
real one where it names a tensor. With `--plain`, neither is given importances and all errors count the same.

A ratio is our error over ggml's, of all the matrices of a model together and of the worst of them.
"""

import argparse
import ctypes
import json
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy
from quant_goldens import read
from record import show

TYPES = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "IQ3_S",
    "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ1_0", "TQ2_0", "MXFP4",
    "Q1_0", "Q2_0",
]  # fmt: skip
WIDTH = 256


class Kind:
    """A type: its name, ggml's number for it, values and bytes of a block."""

    def __init__(self, name):
        self.name = name
        if name == "Q2_0":  # gguf 0.19 does not know it.
            self.value, self.block, self.size = 42, 64, 18
        else:
            kind = gguf.GGMLQuantizationType[name]
            self.value, (self.block, self.size) = kind.value, gguf.GGML_QUANT_SIZES[kind]

    def read(self, blocks):
        return read(blocks.reshape(-1, self.size), self.name)


def ggml():
    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    floats = ctypes.POINTER(ctypes.c_float)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, floats, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, floats,
    ]  # fmt: skip
    # Once: it fills the tables that half floats are read with.
    library.ggml_init.argtypes = [type("Parameters", (ctypes.Structure,), {
        "_fields_": [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]
    })]  # fmt: skip
    library.ggml_init.restype = ctypes.c_void_p
    library.ggml_init(library.ggml_init.argtypes[0](1024, None, False))
    return library


def by_ggml(library, kind, rows, importance):
    out = numpy.zeros(rows.size // kind.block * kind.size, dtype=numpy.uint8)
    pointer = lambda array: array.ctypes.data_as(ctypes.POINTER(ctypes.c_float)) if array is not None else None
    library.ggml_quantize_init(kind.value)
    written = library.ggml_quantize_chunk(
        kind.value, pointer(rows), out.ctypes.data, 0, rows.shape[0], rows.shape[1], pointer(importance)
    )
    assert written == out.size, f"{kind.name}: {written} bytes, not {out.size}"
    return out


def by_us(program, kind, rows, importance):
    with tempfile.TemporaryDirectory() as directory:
        path = lambda name: str(Path(directory) / name)
        rows.tofile(path("rows"))
        command = [program, kind.name, str(rows.shape[1]), path("rows"), path("out")]
        if importance is not None:
            importance.tofile(path("importance"))
            command.append(path("importance"))
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(command, check=True)
        seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        return numpy.fromfile(path("out"), dtype=numpy.uint8), seconds


def safetensors(path):
    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    for name, tensor in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__" and len(tensor["shape"]) == 2:
            start, end = (8 + length + offset for offset in tensor["data_offsets"])
            assert tensor["dtype"] == "F32", f"{name} is {tensor['dtype']}"
            yield name, numpy.frombuffer(data[start:end], dtype="<f4").reshape(tensor["shape"])


def llama2c(path):
    """The matrices of a legacy file (llama2.c `export.py`, version 0)."""
    data = numpy.fromfile(path, dtype="<f4")
    dim, hidden, n_layers, n_heads, n_kv_heads, vocab, _ = (int(x) for x in data[:7].view("<i4"))
    kv = dim // n_heads * n_kv_heads
    at = 7
    shapes = [
        ("embedding", abs(vocab), dim), ("", n_layers, dim), ("wq", n_layers * dim, dim), ("wk", n_layers * kv, dim),
        ("wv", n_layers * kv, dim), ("wo", n_layers * dim, dim), ("", n_layers, dim), ("w1", n_layers * hidden, dim),
        ("w2", n_layers * dim, hidden), ("w3", n_layers * hidden, dim),
    ]  # fmt: skip
    for name, rows, columns in shapes:
        if name:
            yield name, data[at : at + rows * columns].reshape(rows, columns)
        at += rows * columns


def models(data):
    yield "tales-3m", safetensors(data / "hf/tales-3m/model.safetensors")
    yield "stories260K", llama2c(data / "llama2c/stories260K.bin")
    yield "babyllama", llama2c(data / "llama2c/babyllama.bin")


def cut(matrix):
    """Rows that every type takes."""
    if matrix.shape[1] % WIDTH == 0:
        return numpy.ascontiguousarray(matrix)
    flat = matrix.reshape(-1)
    return numpy.ascontiguousarray(flat[: flat.size // WIDTH * WIDTH].reshape(-1, WIDTH))


def compare(options, library, kind, matrices, numbers):
    ours, theirs, worst, seconds, n_weights = 0.0, 0.0, 0.0, 0.0, 0
    for _, matrix in matrices:
        rows = cut(matrix)
        importance = None
        if not options.plain:
            importance = numpy.exp(numbers.normal(0, options.spread, rows.shape[1])).astype(numpy.float32)
        error = lambda blocks: float(
            (((kind.read(blocks).reshape(rows.shape) - rows).astype(numpy.float64) ** 2)
            * (1.0 if importance is None else importance)).sum()
        )  # fmt: skip
        blocks, took = by_us(options.program, kind, rows, importance)
        our, their = error(blocks), error(by_ggml(library, kind, rows, importance))
        ours, theirs, seconds, n_weights = ours + our, theirs + their, seconds + took, n_weights + rows.size
        worst = max(worst, our / their)
    return {"ratio": round(ours / theirs, 4), "worst_ratio": round(worst, 4)}, n_weights / seconds / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("data", type=Path)
    parser.add_argument("--types", nargs="*", default=TYPES)
    parser.add_argument("--models", nargs="*", help="not all of them")
    parser.add_argument("--spread", type=float, default=1.5, help="of the logarithms of importances")
    parser.add_argument("--plain", action="store_true")
    options = parser.parse_args()
    library = ggml()
    results = []
    for name in options.types:
        kind = Kind(name)
        for model, matrices in models(options.data):
            if options.models and model not in options.models:
                continue
            row, speed = compare(options, library, kind, matrices, numpy.random.default_rng(1))
            results.append({"type": name, "model": model, **row, "million_weights_per_cpu_s": round(speed, 2)})
            print(results[-1], file=sys.stderr)
    command = "python tools/llama_cpp_encoders.py " + " ".join(sys.argv[1:])
    show(command, f"{platform.machine()}, one core, llama-cpp-python {llama_cpp.__version__}", results)


if __name__ == "__main__":
    main()
