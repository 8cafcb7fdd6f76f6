"""Compares `smidgen eval` with what llama.cpp computes by the protocol of its `llama-perplexity`, on the same file and text.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 numpy
    cargo build --release
    /tmp/peer/bin/python tools/llama_cpp_perplexity.py target/release/smidgen ../shared/data/text/tinystories-valid.txt \
        MODEL... > bench/record/$(date -u +%F)-perplexity-parity.json

MODEL is a GGUF file or a checkpoint that `smidgen convert` reads; a GGUF of version 1, which llama.cpp no longer reads, is
converted too. (babyllama is not among them: llama.cpp stops at characters that a vocabulary without bytes cannot write.) Each runs as it is stored and, where that makes it smaller, in q8_0, which is
also compared with the former: KL divergence and the share of equal top tokens. The arithmetic here is numpy's, in 64 bits, on
llama.cpp's logits.

With `--golden`, prints only what llama.cpp says of GGUF files: the figures that crates/smidgen/tests/command/eval.rs expects.
"""

import argparse
import ctypes
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile

import llama_cpp
import numpy as np
from record import show


class Peer:
    """A model in llama.cpp, with an exact cache."""

    def __init__(self, path, n_ctx):
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        assert self.model, path
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = n_ctx
        context.n_threads = context.n_threads_batch = 1
        context.flash_attn_type = 0  # Off: it would round to half floats.
        context.type_k = context.type_v = 0  # F32.
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        self.n_ctx = n_ctx

    def tokens(self, text):
        room = len(text) + 8
        ids = (llama_cpp.llama_token * room)()
        n = llama_cpp.llama_tokenize(self.vocab, text, len(text), ids, room, True, False)
        assert n > 0
        return list(ids[:n])

    def log_probabilities(self, chunk):
        """Those of the scored positions of a chunk, (positions, vocabulary)."""
        first = self.n_ctx // 2
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        batch = llama_cpp.llama_batch_init(self.n_ctx, 0, 1)
        batch.n_tokens = self.n_ctx
        for i, token in enumerate(chunk):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, int(i >= first)
            batch.seq_id[i][0] = 0
        if llama_cpp.llama_vocab_get_add_bos(self.vocab):
            batch.token[0] = llama_cpp.llama_vocab_bos(self.vocab)
        assert llama_cpp.llama_decode(self.context, batch) == 0
        llama_cpp.llama_batch_free(batch)
        rows = [llama_cpp.llama_get_logits_ith(self.context, i) for i in range(first, self.n_ctx - 1)]
        logits = np.array([np.ctypeslib.as_array(row, shape=(self.n_vocab,)) for row in rows], dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def free(self):
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def figures(path, base_path, text, n_ctx, n_chunks):
    """What llama.cpp says of the model at `path`, compared with that at `base_path` where there is one."""
    peer = Peer(path, n_ctx)
    base = Peer(base_path, n_ctx) if base_path else None
    tokens = peer.tokens(text)
    n_chunks = min(n_chunks or len(tokens), len(tokens) // n_ctx)
    nlls, kls, same = [], [], []
    for index in range(n_chunks):
        chunk = tokens[index * n_ctx : (index + 1) * n_ctx]
        scores = peer.log_probabilities(chunk)
        followed = chunk[n_ctx // 2 + 1 :]
        nlls.extend(-scores[np.arange(len(followed)), followed])
        if base:
            truth = base.log_probabilities(chunk)
            kls.extend((np.exp(truth) * (truth - scores)).sum(axis=1))
            same.extend(truth.argmax(axis=1) == scores.argmax(axis=1))
    nlls = np.array(nlls)
    perplexity = np.exp(nlls.mean())
    found = {"perplexity": perplexity, "perplexity_error": np.sqrt(nlls.var() / (len(nlls) - 1)) * perplexity}
    if base:
        found |= {"kl_mean": np.mean(kls), "kl_p99": np.quantile(kls, 0.99), "same_top": np.mean(same)}
        base.free()
    peer.free()
    return found


def our_figures(smidgen, path, base, text, n_ctx, n_chunks):
    words = [smidgen, "eval", path, "-f", text, "-c", str(n_ctx), "--json"]
    words += ["--against", base] if base else []
    words += ["--chunks", str(n_chunks)] if n_chunks else []
    return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def as_gguf(smidgen, name, directory):
    """The model called `name` as a GGUF file that llama.cpp reads."""
    with open(name, "rb") if os.path.isfile(name) else open(os.devnull, "rb") as file:
        start = file.read(8)
    if start[:4] == b"GGUF" and struct.unpack("<I", start[4:])[0] > 1:
        return name
    out = os.path.join(directory, os.path.basename(os.path.normpath(name)) + ".gguf")
    subprocess.run([smidgen, "convert", name, out], check=True, capture_output=True)
    return out


def rounded(figures, digits=7):
    return {name: float(f"{value:.{digits}g}") for name, value in figures.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("text")
    parser.add_argument("models", nargs="+")
    parser.add_argument("-c", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument("--golden", action="store_true")
    arguments = parser.parse_args()
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    with open(arguments.text, "rb") as file:
        text = file.read().removesuffix(b"\n")
    n_ctx, n_chunks = arguments.c, arguments.chunks
    if arguments.golden:
        for name in arguments.models:
            print(name, rounded(figures(name, None, text, n_ctx, n_chunks)))
        return
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for name in arguments.models:
            base = as_gguf(arguments.smidgen, name, directory)
            small = os.path.join(directory, "small.gguf")
            words = [arguments.smidgen, "convert", base, small, "--outtype", "q8_0", "--fallback", "f16"]
            subprocess.run(words, check=True, capture_output=True)
            runs = [(base, None, "as stored")]
            if os.path.getsize(small) < os.path.getsize(base):
                runs.append((small, base, "q8_0"))
            for path, against, stored in runs:
                theirs = rounded(figures(path, against, text, n_ctx, n_chunks))
                ours = our_figures(arguments.smidgen, path, against, arguments.text, n_ctx, n_chunks)
                model = os.path.basename(os.path.normpath(name))
                result = {"model": model, "weights": stored, "chunks": ours["chunks"], "tokens": ours["tokens"]}
                for figure, value in theirs.items():
                    result[f"llama_cpp_{figure}"] = value
                    result[f"smidgen_{figure}"] = float(f"{ours[figure]:.7g}")
                difference = ours["perplexity"] / theirs["perplexity"] - 1
                result["perplexity_difference_percent"] = float(f"{100 * difference:.2g}")
                results.append(result)
                print(json.dumps(result), file=sys.stderr)
    command = (
        "python tools/llama_cpp_perplexity.py target/release/smidgen ../shared/data/text/tinystories-valid.txt"
        " models/tales.gguf ../shared/data/gguf/stories260K-v1-f32.gguf ../shared/data/hf/tales-3m"
        + (f" --chunks {n_chunks}" if n_chunks else "")
    )
    show(command, f"{platform.machine()}, llama-cpp-python {llama_cpp.__version__}", results)


if __name__ == "__main__":
    main()
