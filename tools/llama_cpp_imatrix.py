"""Compares the imatrix that `smidgen calibrate` writes with the sums that llama.cpp's own graph gives for the same chunks.

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 numpy
    cargo build --release
    /tmp/peer/bin/python tools/llama_cpp_imatrix.py target/release/smidgen TEXT MODEL.gguf... \
        > bench/record/$(date -u +%F)-imatrix-parity.json

llama.cpp is asked, through the callback that `llama-imatrix` uses, for the input of every matrix product. Our file is read
with the `gguf` package, by the rules of llama-imatrix: a `.in_sum2` and a `.counts` for every matrix. With `--golden FILE`
the sums of llama.cpp are written as an imatrix of its format, which is how testdata/eval/imatrix-gpt2-untied-odd.gguf was made.

`changed_by_imatrix` is how many bytes of llama.cpp's IQ4_NL of the model our imatrix changes: it is taken, and it matters.
"""

import argparse
import ctypes
import os
import platform
import subprocess
import tempfile

import gguf
import llama_cpp
import numpy as np
from record import show


class Tensor(ctypes.Structure):
    """ggml_tensor of the llama.cpp in llama-cpp-python 0.3.36."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.c_void_p),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


def peer_sums(path, text, n_ctx, n_chunks):
    """Sums of squares and counts of what every matrix is multiplied with."""
    sums, counts = {}, {}

    def watch(tensor, ask, _):
        tensor = ctypes.cast(tensor, ctypes.POINTER(Tensor)).contents
        weights, x = tensor.src[0], tensor.src[1]
        if not weights or not x or x.contents.type != 0:
            return not ask
        name = weights.contents.name.decode().split("#")[0]
        # Only matrices of the model have such names and are multiplied, not added or scaled.
        if not name.endswith(".weight") or "norm" in name or tensor.ne[0] != weights.contents.ne[1]:
            return not ask
        x = x.contents
        columns, rows = x.ne[0], x.ne[1] * x.ne[2] * x.ne[3]
        if columns != weights.contents.ne[0] or x.nb[1] != 4 * columns:
            return not ask
        if not ask:
            values = np.ctypeslib.as_array(ctypes.cast(x.data, ctypes.POINTER(ctypes.c_float)), shape=(rows, columns))
            sums[name] = sums.get(name, 0) + (values.astype(np.float64) ** 2).sum(axis=0)
            counts[name] = counts.get(name, 0) + rows
        return True

    callback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_bool, ctypes.c_void_p)(watch)
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    parameters.use_mmap = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
    assert model, path
    context = llama_cpp.llama_context_default_params()
    context.n_ctx = context.n_batch = context.n_ubatch = n_ctx
    context.n_threads = context.n_threads_batch = 1
    context.flash_attn_type = 0
    context.type_k = context.type_v = 0
    context.cb_eval = ctypes.cast(callback, type(context.cb_eval))
    context = llama_cpp.llama_init_from_model(model, context)
    vocab = llama_cpp.llama_model_get_vocab(model)
    room = len(text) + 8
    ids = (llama_cpp.llama_token * room)()
    tokens = list(ids[: llama_cpp.llama_tokenize(vocab, text, len(text), ids, room, True, False)])
    n_chunks = min(n_chunks or len(tokens), len(tokens) // n_ctx)
    for index in range(n_chunks):
        chunk = tokens[index * n_ctx : (index + 1) * n_ctx]
        if llama_cpp.llama_vocab_get_add_bos(vocab):
            chunk[0] = llama_cpp.llama_vocab_bos(vocab)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch = llama_cpp.llama_batch_init(n_ctx, 0, 1)
        batch.n_tokens = n_ctx
        for i, token in enumerate(chunk):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert llama_cpp.llama_decode(context, batch) == 0
        llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return sums, counts, n_chunks


def our_sums(path):
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.type"].contents() == "imatrix"
    tensors = {tensor.name: tensor.data.flatten() for tensor in reader.tensors}
    names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
    return {n: tensors[n + ".in_sum2"] for n in names}, {n: tensors[n + ".counts"] for n in names}


def changed_by_imatrix(path, sums, counts, directory):
    """Bytes that differ between llama.cpp's quantizations of a model with these sums and without."""
    means = {name: (values / counts[name][0]).astype(np.float32) for name, values in sums.items()}
    rows = (llama_cpp.llama_model_imatrix_data * (len(means) + 1))()
    for row, (name, values) in zip(rows, means.items()):
        row.name, row.size = name.encode(), len(values)
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    files = []
    for imatrix in (None, rows):
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_IQ4_NL
        parameters.allow_requantize, parameters.nthread = True, 1
        if imatrix:
            parameters.imatrix = ctypes.cast(imatrix, type(parameters.imatrix))
        out = os.path.join(directory, "quantized.gguf")
        assert llama_cpp.llama_model_quantize(path.encode(), out.encode(), ctypes.byref(parameters)) == 0
        files.append({tensor.name: tensor.data.copy() for tensor in gguf.GGUFReader(out).tensors})
    return int(sum((files[0][name] != files[1][name]).sum() for name in files[0]))


def write_golden(path, text, sums, counts, n_ctx, n_chunks):
    writer = gguf.GGUFWriter(path, "")
    writer.kv_data[0].clear()  # llama-imatrix writes no architecture.
    writer.add_string("general.type", "imatrix")
    writer.add_array("imatrix.datasets", [text])
    writer.add_uint32("imatrix.chunk_count", n_chunks)
    writer.add_uint32("imatrix.chunk_size", n_ctx)
    for name in sorted(sums):
        writer.add_tensor(f"{name}.in_sum2", sums[name].astype(np.float32).reshape(1, -1))
        writer.add_tensor(f"{name}.counts", np.array([[counts[name]]], dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("smidgen")
    parser.add_argument("text")
    parser.add_argument("models", nargs="+")
    parser.add_argument("-c", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--golden")
    arguments = parser.parse_args()
    silent = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(silent, ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    with open(arguments.text, "rb") as file:
        text = file.read().removesuffix(b"\n")
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for path in arguments.models:
            theirs, counts, n_chunks = peer_sums(path, text, arguments.c, arguments.chunks)
            if arguments.golden:
                write_golden(arguments.golden, os.path.basename(arguments.text), theirs, counts, arguments.c, n_chunks)
                return
            out = os.path.join(directory, "imatrix.gguf")
            words = [arguments.smidgen, "calibrate", path, "-f", arguments.text, "-o", out, "-c", str(arguments.c)]
            subprocess.run(words + ["--chunks", str(n_chunks)], check=True, capture_output=True)
            ours, our_counts = our_sums(out)
            assert sorted(ours) == sorted(theirs), (sorted(ours), sorted(theirs))
            assert all(our_counts[name] == counts[name] for name in counts)
            worst = max(np.abs(ours[name] / theirs[name] - 1).max() for name in theirs)
            mean = np.mean([np.abs(ours[name].sum() / theirs[name].sum() - 1) for name in theirs])
            result = {"model": os.path.basename(path), "matrices": len(ours), "chunks": n_chunks}
            result["largest_relative_difference"] = float(f"{worst:.2g}")
            result["mean_relative_difference_of_sums"] = float(f"{mean:.2g}")
            result["changed_by_imatrix"] = changed_by_imatrix(path, ours, our_counts, directory)
            results.append(result)
    command = (
        "python tools/llama_cpp_imatrix.py target/release/smidgen ../shared/data/text/tinystories-valid.txt"
        " models/tales.gguf stories260K.gguf tales-3m.gguf (the latter two by smidgen convert)"
        f" --chunks {arguments.chunks}"
    )
    show(command, f"{platform.machine()}, llama-cpp-python {llama_cpp.__version__}", results)


if __name__ == "__main__":
    main()
