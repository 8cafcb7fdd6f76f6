"""Runs the files that `smidgen quantize` makes in llama.cpp: they load, say what they are, and give the same text.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy
    cargo build --release
    /tmp/peer/bin/python tools/our_quants_in_llama_cpp.py target/release/smidgen \
        --golden testdata/quant/our_quants_in_llama_cpp.json \
        > bench/record/$(date -u +%F)-our-quants-in-llama-cpp.json

The embedded model, whose rows have 128 weights, becomes every type with blocks of 32: llama.cpp continues a text greedily from
each file, and the golden holds its tokens, as long as it is sure of them, with the file's SHA-256, for a test that needs no llama.cpp. A random model with rows of
512 becomes every mixture. Both programs round activations, each in its own way, so `difference` (root mean square of the
differences between the logits of both over that of llama.cpp's) is near 0.01 and not 0.
"""

import argparse
import ctypes
import hashlib
import json
import platform
import subprocess
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy
from llama_cpp_parity import IDS, our_logits, peer_logits
from llama_cpp_quants import random_model
from record import show

TALES = Path(__file__).parent.parent / "models/tales.gguf"
PROMPT, N_TOKENS = "Once upon a time", 32
# Logits of the two programs differ by less than this, so that a token with such a lead is the likeliest in both.
LEAST_LEAD = 0.3
# What these become does not change when an encoder learns something.
FIXED = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
TYPES = FIXED + ["IQ4_NL", "MXFP4"]
MIXTURES = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S",
    "Q5_K_M", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "IQ3_XS", "IQ3_S", "IQ3_M",
    "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0",
]


def quantize(smidgen, source, target, *flags):
    subprocess.run([smidgen, "quantize", str(source), str(target), *flags], check=True, capture_output=True)


def our_ids(smidgen, path):
    words = [smidgen, "run", str(path), "-p", PROMPT, "--temp", "0", "-n", str(N_TOKENS), "--ignore-eos", "--json"]
    return json.loads(subprocess.run(words, check=True, capture_output=True).stdout)


def peer_ids(path, prompt):
    """The tokens that llama.cpp continues with, each the likeliest, up to the first that is only just so."""
    ids = list(prompt)
    while len(ids) < len(prompt) + N_TOKENS:
        logits = peer_logits(str(path), ids)[-1]
        second, first = numpy.sort(logits)[-2:]
        if first - second < LEAST_LEAD:
            break
        ids.append(int(numpy.argmax(logits)))
    return ids[len(prompt):]


def imatrix(model, path):
    """An importance matrix for the model in llama.cpp's format, of numbers that differ from column to column."""
    writer = gguf.GGUFWriter(path, "")
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", ["random"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    numbers = numpy.random.default_rng(11)
    for tensor in gguf.GGUFReader(model).tensors:
        name, columns = tensor.name, int(tensor.shape[0])
        if len(tensor.shape) > 1 and name != "token_embd.weight":
            writer.add_tensor(f"{name}.in_sum2", numbers.gamma(2.0, 256.0, (1, columns)).astype(numpy.float32))
            writer.add_tensor(f"{name}.counts", numpy.full((1, 1), 512, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def difference(smidgen, path, directory):
    """How far both programs' logits are apart, and the types in the file as the gguf package reads them."""
    ours, peers = our_logits(smidgen, str(path), IDS, str(directory)), peer_logits(str(path), IDS)
    apart = numpy.sqrt(numpy.mean((ours - peers) ** 2)) / numpy.sqrt(numpy.mean(peers**2))
    types = sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors} - {"F32"})
    return float(f"{apart:.2g}"), types


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("--golden", type=Path)
    arguments = parser.parse_args()
    smidgen = arguments.smidgen
    llama_cpp.llama_backend_init()
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    results, golden = [], []
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        out = directory / "out.gguf"
        for name in TYPES:
            quantize(smidgen, TALES, out, name, "--requantize", "--pure")
            ours = our_ids(smidgen, out)
            theirs = peer_ids(out, ours["prompt_ids"])
            if name in FIXED:
                golden.append({"type": name, "sha256": hashlib.sha256(out.read_bytes()).hexdigest(), "ids": theirs})
            apart, types = difference(smidgen, out, directory)
            row = {"model": "tales", "type": name, "types": types, "difference": apart}
            results.append(row | {"n_tokens": len(theirs), "same_text": ours["ids"][: len(theirs)] == theirs})
        base, known = directory / "base.gguf", directory / "imatrix.gguf"
        random_model(base)
        imatrix(base, known)
        for name in MIXTURES:
            quantize(smidgen, base, out, name, "--imatrix", str(known))
            apart, types = difference(smidgen, out, directory)
            results.append({"model": "random, 512 columns", "type": name, "types": types, "difference": apart})
    if arguments.golden:
        head = {"made_by": f"tools/our_quants_in_llama_cpp.py, llama-cpp-python {llama_cpp.__version__}"}
        rows = ",\n ".join(json.dumps(row) for row in golden)
        text = json.dumps(head | {"prompt": PROMPT})[:-1] + f', "runs": [\n {rows}\n]}}\n'
        arguments.golden.write_text(text)
    command = "python tools/our_quants_in_llama_cpp.py target/release/smidgen"
    show(command, f"{platform.machine()}, llama-cpp-python {llama_cpp.__version__}", results)


if __name__ == "__main__":
    main()
