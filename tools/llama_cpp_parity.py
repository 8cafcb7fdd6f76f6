"""Runs the GGUF files that `smidgen convert` makes of the golden checkpoints in llama.cpp, and compares every logit.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 numpy
    cargo build --release
    /tmp/peer/bin/python tools/llama_cpp_parity.py target/release/smidgen testdata/hf/* \
        > bench/record/$(date -u +%F)-llama-cpp-parity.json

Rows that differ: llama.cpp rounds GELU to a table of half floats, knows no gpt-neo, ignores the sliding windows of the
`llama` and `qwen2` architectures and gemma3's own score scale, and reads YaRN's explicit factors in its own way. The
judge of all of them is `transformers` (crates/host/tests/goldens.rs).
"""

import ctypes
import os
import platform
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
from record import show

IDS = [1, 22, 7, 30, 5, 99, 44, 3, 17, 60, 12, 8]


def peer_logits(path, ids):
    """The logits of every position by llama.cpp, (tokens, vocab), or None where it refuses the file."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    if not model:
        return None
    context = llama_cpp.llama_context_default_params()
    context.n_ctx = context.n_batch = context.n_ubatch = 128
    context.n_threads = 1
    context.flash_attn_type = 0  # Off: it would round to half floats.
    context.type_k = context.type_v = 0  # F32.
    context = llama_cpp.llama_init_from_model(model, context)
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
        batch.seq_id[i][0] = 0
    assert llama_cpp.llama_decode(context, batch) == 0
    rows = [llama_cpp.llama_get_logits_ith(context, i) for i in range(len(ids))]
    logits = np.array([np.ctypeslib.as_array(row, shape=(n_vocab,)).copy() for row in rows])
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return logits


def our_logits(smidgen, path, ids, directory):
    out = os.path.join(directory, "logits.npy")
    words = [smidgen, "run", path, "--ids", " ".join(map(str, ids)), "--logits", out, "-n", "0"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return np.load(out)


def main():
    smidgen, checkpoints = sys.argv[1], [path for path in sys.argv[2:] if os.path.isdir(path)]
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for checkpoint in checkpoints:
            name = os.path.basename(os.path.normpath(checkpoint))
            path = os.path.join(directory, f"{name}.gguf")
            words = [smidgen, "convert", checkpoint, path, "--outtype", "f32"]
            subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
            theirs = peer_logits(path, IDS)
            result = {"checkpoint": name, "loads": theirs is not None}
            if theirs is not None:
                ours = our_logits(smidgen, path, IDS, directory)
                result["largest_difference"] = float(f"{np.abs(ours - theirs).max():.2g}")
                result["largest_logit"] = float(f"{np.abs(theirs).max():.3g}")
            results.append(result)
    command = "python tools/llama_cpp_parity.py target/release/smidgen testdata/hf/* ../shared/data/hf/*"
    show(command, f"{platform.machine()}, llama-cpp-python {llama_cpp.__version__}", results)


if __name__ == "__main__":
    main()
