"""Lets llama.cpp quantize a random model to every mixture of types it has, and runs the files in both programs.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy
    cargo build --release
    /tmp/peer/bin/python tools/llama_cpp_quants.py target/release/smidgen > bench/record/$(date -u +%F)-llama-cpp-quants.json

Both round activations to eight bits, llama.cpp in blocks of 256 and we in blocks of 32, so both are also compared with the
truth: the same file with every weight widened to f32, run by smidgen. `smidgen_error` and `llama_cpp_error` are root mean
squares of the differences from it, over that of its logits. The mixtures that llama.cpp makes only with an importance
matrix (IQ1 and IQ2, IQ3_XXS), and MXFP4, which it makes of experts only, are not among them; the bytes of these types are
those of tools/quant_goldens.py.
"""

import ctypes
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy
from llama_cpp_parity import IDS, our_logits, peer_logits
from record import show

N_LAYERS, N_EMBD, N_FF, N_HEADS, N_KV_HEADS, N_VOCAB = 2, 512, 1024, 8, 4, 512
MIXTURES = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS",
    "IQ3_S", "TQ1_0", "TQ2_0",
]


def random_model(path):
    numbers = numpy.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(N_LAYERS)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(N_VOCAB)
    writer.add_tokenizer_model("llama")
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += [f"w{i}" for i in range(N_VOCAB - len(tokens))]
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * N_VOCAB)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (N_VOCAB - 259))

    def matrix(name, rows, columns):
        # Heavier tails than a bell curve, as trained weights have them.
        writer.add_tensor(name, (numbers.standard_t(5, (rows, columns)) * columns**-0.5).astype(numpy.float32))

    def norm(name):
        writer.add_tensor(name, numpy.ones(N_EMBD, dtype=numpy.float32))

    matrix("token_embd.weight", N_VOCAB, N_EMBD)
    for layer in range(N_LAYERS):
        kv = N_EMBD // N_HEADS * N_KV_HEADS
        norm(f"blk.{layer}.attn_norm.weight")
        norm(f"blk.{layer}.ffn_norm.weight")
        for part, rows in [("q", N_EMBD), ("k", kv), ("v", kv), ("output", N_EMBD)]:
            matrix(f"blk.{layer}.attn_{part}.weight", rows, N_EMBD)
        matrix(f"blk.{layer}.ffn_gate.weight", N_FF, N_EMBD)
        matrix(f"blk.{layer}.ffn_up.weight", N_FF, N_EMBD)
        matrix(f"blk.{layer}.ffn_down.weight", N_EMBD, N_FF)
    norm("output_norm.weight")
    matrix("output.weight", N_VOCAB, N_EMBD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantized(path, mixture, directory):
    """The file that llama.cpp makes of the model at `path`."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{mixture}")
    parameters.nthread = 1
    out = str(directory / f"{mixture}.gguf")
    assert llama_cpp.llama_model_quantize(str(path).encode(), out.encode(), ctypes.byref(parameters)) == 0
    return out


def types_in(path):
    return sorted({tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors} - {"F32"})


def main():
    smidgen = sys.argv[1]
    llama_cpp.llama_backend_init()
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    results = []
    with tempfile.TemporaryDirectory() as directory:
        directory = Path(directory)
        base = directory / "base.gguf"
        random_model(base)
        for mixture in MIXTURES:
            path = quantized(base, mixture, directory)
            widened = str(directory / "widened.gguf")
            subprocess.run([smidgen, "convert", path, widened, "--outtype", "f32"], check=True, capture_output=True)
            truth = our_logits(smidgen, widened, IDS, directory)
            size = numpy.sqrt(numpy.mean(truth**2))
            ours, peers = our_logits(smidgen, path, IDS, directory), peer_logits(path, IDS)
            error = lambda logits: float(f"{numpy.sqrt(numpy.mean((logits - truth) ** 2)) / size:.2g}")
            errors = {"smidgen_error": error(ours), "llama_cpp_error": error(peers)}
            results.append({"mixture": mixture, "types": types_in(path)} | errors)
    command = "python tools/llama_cpp_quants.py target/release/smidgen"
    show(command, f"{platform.machine()}, llama-cpp-python {llama_cpp.__version__}", results)


if __name__ == "__main__":
    main()
