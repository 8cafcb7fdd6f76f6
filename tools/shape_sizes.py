"""What files of well-known shapes become: SmolLM-135M and GPT-2 124M with every weight zero, by `quantize --dry-run`.

    python tools/shape_sizes.py target/release/smidgen ../shared/data > bench/record/$(date -u +%F)-shape-sizes.json

Needs the packages numpy and gguf. The vocabularies are real ones of the same size, from the shared data: starcoder's 49,152
pieces for SmolLM, GPT-2's own. Sizes do not depend on the weights, so the files are holes.
"""

import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy
from record import show

# Name, architecture, vocabulary, layers, width, feed-forward, heads, key-value heads, context.
SHAPES = [
    ("SmolLM-135M", "llama", "starcoder", 30, 576, 1536, 9, 3, 2048),
    ("GPT-2 124M", "gpt2", "gpt-2", 12, 768, 3072, 12, 12, 1024),
]
# What is asked of each.
RUNS = {
    "SmolLM-135M": ["Q2_W", "Q2_W --pure", "Q3_W", "Q4_W", "Q8_W", "Q2_K --fallback llama", "Q4_K_M --fallback llama"],
    "GPT-2 124M": ["Q2_W", "Q2_W --pure", "Q3_W", "Q4_W --pure", "Q4_W --embedding-type Q2_W", "Q8_W", "Q2_K", "Q4_K_M"],
}


def matrices(arch, n_layers, n_embd, n_ff, n_kv, n_vocab, context):
    """Names and shapes, (rows, columns), of every tensor; vectors have one dimension."""
    yield "token_embd.weight", (n_vocab, n_embd)
    yield "output_norm.weight", (n_embd,)
    if arch == "gpt2":
        yield "position_embd.weight", (context, n_embd)
        yield "output_norm.bias", (n_embd,)
    for layer in range(n_layers):
        parts = {"attn_norm": (n_embd,), "ffn_norm": (n_embd,), "attn_output": (n_embd, n_embd), "ffn_up": (n_ff, n_embd),
                 "ffn_down": (n_embd, n_ff)}
        if arch == "gpt2":
            parts["attn_qkv"] = (3 * n_embd, n_embd)
        else:
            parts |= {"attn_q": (n_embd, n_embd), "attn_k": (n_kv, n_embd), "attn_v": (n_kv, n_embd), "ffn_gate": (n_ff, n_embd)}
        for name, shape in parts.items():
            yield f"blk.{layer}.{name}.weight", shape
            if arch == "gpt2":
                yield f"blk.{layer}.{name}.bias", shape[:1]


def write(path, vocabulary, arch, n_layers, n_embd, n_ff, n_heads, n_kv_heads, context):
    writer = gguf.GGUFWriter(path, arch)
    source = gguf.GGUFReader(vocabulary)
    for field in source.fields.values():
        if field.name.startswith("tokenizer."):
            kind, item = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), kind, item)
    n_vocab = len(source.fields["tokenizer.ggml.tokens"].data)
    writer.add_block_count(n_layers)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads)
    writer.add_context_length(context)
    writer.add_vocab_size(n_vocab)
    if arch == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_rope_dimension_count(n_embd // n_heads)
    n_weights = 0
    for name, shape in matrices(arch, n_layers, n_embd, n_ff, n_embd // n_heads * n_kv_heads, n_vocab, context):
        kind = numpy.float32 if len(shape) == 1 or name == "position_embd.weight" else numpy.float16
        writer.add_tensor_info(name, shape, numpy.dtype(kind), int(numpy.prod(shape)) * numpy.dtype(kind).itemsize)
        n_weights += int(numpy.prod(shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    n_bytes = sum(
        -(-info.nbytes // writer.data_alignment) * writer.data_alignment
        for tensors in writer.tensors for info in tensors.values()
    )
    header = path.stat().st_size
    header += -header % writer.data_alignment
    with open(path, "r+b") as file:
        file.truncate(header + n_bytes)
    return n_weights


def main():
    program, data = sys.argv[1], Path(sys.argv[2])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arch, vocabulary, *shape in SHAPES:
            path = Path(folder) / f"{arch}.gguf"
            n_weights = write(path, data / f"tok/ggml-vocab-{vocabulary}.gguf", arch, *shape)
            for options in RUNS[name]:
                command = [program, "quantize", path, *options.split(), "--dry-run", "--json"]
                run = subprocess.run(command, capture_output=True, text=True)
                if run.returncode:
                    sys.exit(run.stderr)
                said = json.loads(run.stdout)
                rows.append({
                    "shape": name, "weights": n_weights, "asked": options, "bytes": said["bytes"],
                    "megabytes": round(said["bytes"] / 1e6, 1), "bits_per_weight": round(said["bits_per_weight"], 3),
                    "types": {kind: part["n_tensors"] for kind, part in said["types"].items()},
                })
    command = "python tools/shape_sizes.py target/release/smidgen ../shared/data"
    show(command, f"{platform.machine()}, {platform.system()} {platform.release()}", rows)


if __name__ == "__main__":
    main()
