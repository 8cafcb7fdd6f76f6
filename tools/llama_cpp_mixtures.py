"""Asks llama.cpp which type each tensor has in each of its mixtures, for the test of `crates/compress/src/recipe`.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy
    /tmp/peer/bin/python tools/llama_cpp_mixtures.py > testdata/quant/llama_cpp_mixtures.json

llama.cpp chooses by the names of tensors, the length of their rows and the model's numbers, so that matrices of two rows
are enough. Each answer has one letter for each matrix, in the order of `matrices` below: those before the layers, each layer
(`*3` when the next three are alike), those after. `letters` says what they mean. A mixture that llama.cpp makes only with an
importance matrix has no `plain`; one that is the same with an importance matrix has no `imatrix`.
"""

import ctypes
import itertools
import json
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy

MIXTURES = [
    "ALL_F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L",
    "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS",
    "IQ3_XS", "IQ3_S", "IQ3_M", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4_MOE",
]
LETTERS = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M",
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4",
]
# arch, layers, heads, kv heads, tied, width, feed-forward width
MODELS = [
    ("llama", 2, 4, 4, True, 256, 512),
    ("llama", 9, 4, 1, False, 256, 512),
    ("llama", 32, 4, 2, False, 256, 512),
    ("llama", 80, 8, 1, False, 256, 512),
    ("gpt2", 12, 4, 4, True, 256, 512),
    ("qwen2", 24, 7, 1, True, 1792, 512),
    ("gemma3", 18, 4, 1, True, 256, 512),
    # Rows that superblocks of 256 do not fit, and rows that nothing fits.
    ("llama", 4, 4, 2, True, 288, 768),
    ("llama", 4, 4, 2, False, 64, 172),
]


def matrices(arch, n_layers, tied, width, n_ff):
    """The names and row lengths of a model's matrices."""
    yield "token_embd.weight", width
    if arch == "gpt2":
        yield "position_embd.weight", width
    for layer in range(n_layers):
        attention = ["attn_qkv"] if arch == "gpt2" else ["attn_q", "attn_k", "attn_v"]
        up = ["ffn_up"] if arch == "gpt2" else ["ffn_gate", "ffn_up"]
        for name in attention + ["attn_output"] + up:
            yield f"blk.{layer}.{name}.weight", width
        yield f"blk.{layer}.ffn_down.weight", n_ff
    if not tied:
        yield "output.weight", width


def write(path, arch, n_layers, n_heads, n_kv_heads, tied, width, n_ff):
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(n_layers)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_sliding_window(64)
    writer.add_vocab_size(2)
    numbers = numpy.random.default_rng(7)
    for name, columns in matrices(arch, n_layers, tied, width, n_ff):
        writer.add_tensor(name, numbers.standard_normal((2, columns)).astype(numpy.float32))
    for layer in range(n_layers):
        writer.add_tensor(f"blk.{layer}.attn_norm.weight", numpy.ones(width, dtype=numpy.float32))
    writer.add_tensor("output_norm.weight", numpy.ones(width, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def importance(model):
    """An importance matrix of ones for every matrix, and what keeps it alive."""
    kept = []
    entries = (llama_cpp.llama_model_imatrix_data * (len(model) + 1))()
    for entry, (name, columns) in zip(entries, model):
        ones = (ctypes.c_float * columns)(*[1.0] * columns)
        kept.append((name.encode(), ones))
        entry.name, entry.data, entry.size = kept[-1][0], ctypes.cast(ones, ctypes.POINTER(ctypes.c_float)), columns
    return entries, kept


def quantized(source, target, mixture, entries):
    parameters = llama_cpp.llama_model_quantize_default_params()
    group = "LLAMA_FTYPE_" if mixture.startswith("ALL") else "LLAMA_FTYPE_MOSTLY_"
    parameters.ftype = getattr(llama_cpp, group + mixture)
    parameters.nthread = 1
    if entries is not None:
        parameters.imatrix = ctypes.cast(entries, type(parameters.imatrix))
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)) != 0:
        return None
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors}


def compact(letters, tensors):
    """One letter for each tensor, in runs of layers that are alike."""
    runs = []
    for key, group in itertools.groupby(zip(letters, tensors), key=lambda pair: pair[1][0].split(".")[:2]):
        text = "".join(letter for letter, _ in group)
        if runs and key[0] == "blk" and runs[-1][0] == text and runs[-1][2] == "blk":
            runs[-1][1] += 1
        elif runs and key[0] != "blk" and runs[-1][2] != "blk":
            runs[-1][0] += text
        else:
            runs.append([text, 1, key[0]])
    return " ".join(text if n == 1 else f"{text}*{n}" for text, n, _ in runs)


def main():
    letters = {name: chr(ord("a") + i) for i, name in enumerate(LETTERS)}
    llama_cpp.llama_backend_init()
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    models = []
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory) / "model.gguf", Path(directory) / "quantized.gguf"
        for arch, n_layers, n_heads, n_kv_heads, tied, width, n_ff in MODELS:
            write(source, arch, n_layers, n_heads, n_kv_heads, tied, width, n_ff)
            tensors = list(matrices(arch, n_layers, tied, width, n_ff))
            entries, kept = importance(tensors)
            types = {}
            for mixture in MIXTURES:
                row = {}
                for key, imatrix in [("plain", None), ("imatrix", entries)]:
                    found = quantized(source, target, mixture, imatrix)
                    answer = found and compact([letters[found[name]] for name, _ in tensors], tensors)
                    if answer and row.get("plain") != answer:
                        row[key] = answer
                types[mixture.removeprefix("ALL_")] = row
            shape = {"arch": arch, "n_layers": n_layers, "n_heads": n_heads, "n_kv_heads": n_kv_heads, "tied": tied}
            models.append(shape | {"n_embd": width, "n_ff": n_ff, "types": types})
            print(arch, n_layers, file=sys.stderr)
    head = {"made_by": f"tools/llama_cpp_mixtures.py, llama-cpp-python {llama_cpp.__version__}"}
    print(json.dumps(head | {"letters": {v: k for k, v in letters.items()}, "models": models}, indent=1))


if __name__ == "__main__":
    main()
