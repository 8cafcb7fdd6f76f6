"""Makes the models that speed and memory are measured with: well-known shapes with random weights, in every type.

    python tools/bench_models.py target/release/smidgen ../shared/data target/bench/models [NAME[:TYPE]...]

Needs the packages numpy and gguf. The vocabularies of llama, SmolLM and GPT-2 are real ones of the right size from the shared
data; Qwen's is left out, and without the shared data all are: such a model runs by token ids. Norms are ones and biases zeros;
matrices are Gaussian, so small that the values of every layer stay of the same size. The numbers come from a fixed seed, so the same
file is made everywhere. stories260K is the real one. Types are written by `smidgen quantize`, with llama.cpp's fall-back types where
rows are too short for ggml's; a file that is there already is left alone.
"""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np

# Name: architecture, vocabulary and its size, layers, width, feed-forward, heads, key-value heads, width of a head, context.
SHAPES = {
    "s15M": ("llama", "llama-spm", 32000, 6, 288, 768, 6, 6, 48, 1024),
    "smol135": ("llama", "starcoder", 49152, 30, 576, 1536, 9, 3, 64, 2048),
    "gpt2-124": ("gpt2", "gpt-2", 50257, 12, 768, 3072, 12, 12, 64, 1024),
    "qwen3-0.6B": ("qwen3", None, 151936, 28, 1024, 3072, 16, 8, 128, 2048),
}
# What they are written in.
TYPES = ["Q8_0", "Q4_0", "Q4_K", "Q2_K", "IQ2_XXS", "Q2_W", "Q4_W", "Q8_W"]
# Those of so few bits that they want to know which weights matter, from a text: any will do for random weights.
NEEDS_TEXT = ["Q2_K", "IQ2_XXS", "Q2_W"]
TEXT = "Once upon a time there was a cat who sat in the sun and looked at the birds. The birds sang, and the cat slept.\n"
# The spread of a matrix's weights.
SPREAD = 0.02


def tensors(arch, n_vocab, n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, context):
    """Names and shapes, (rows, columns), of every tensor; vectors have one dimension."""
    yield "token_embd.weight", (n_vocab, n_embd)
    yield "output_norm.weight", (n_embd,)
    if arch == "gpt2":
        yield "position_embd.weight", (context, n_embd)
        yield "output_norm.bias", (n_embd,)
    query, kv = n_heads * head_dim, n_kv_heads * head_dim
    for layer in range(n_layers):
        parts = {"attn_norm": (n_embd,), "ffn_norm": (n_embd,), "attn_output": (n_embd, query), "ffn_up": (n_ff, n_embd),
                 "ffn_down": (n_embd, n_ff)}
        if arch == "gpt2":
            parts["attn_qkv"] = (query + 2 * kv, n_embd)
        else:
            parts |= {"attn_q": (query, n_embd), "attn_k": (kv, n_embd), "attn_v": (kv, n_embd), "ffn_gate": (n_ff, n_embd)}
        if arch == "qwen3":
            parts |= {"attn_q_norm": (head_dim,), "attn_k_norm": (head_dim,)}
        for name, shape in parts.items():
            yield f"blk.{layer}.{name}.weight", shape
            if arch == "gpt2":
                yield f"blk.{layer}.{name}.bias", shape[:1]


def add_vocabulary(writer, path, n_vocab):
    """Copies every field of the tokenizer of the file at `path`, or says that there is none."""
    if path is None or not path.is_file():
        writer.add_tokenizer_model("no_vocab")
        return
    source = gguf.GGUFReader(path)
    for field in source.fields.values():
        if field.name.startswith("tokenizer."):
            kind, item = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), kind, item)
    assert len(source.fields["tokenizer.ggml.tokens"].data) == n_vocab


def begin(path, vocabulary, arch, n_vocab, n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, context):
    """Writes the header of one model: a writer, the shapes of the tensors by their names, and whose are F32."""
    writer = gguf.GGUFWriter(path, arch)
    add_vocabulary(writer, vocabulary, n_vocab)
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
        writer.add_rope_dimension_count(head_dim)
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    shapes = dict(tensors(arch, n_vocab, n_layers, n_embd, n_ff, n_heads, n_kv_heads, head_dim, context))

    def is_f32(name):
        return len(shapes[name]) == 1 or name == "position_embd.weight"

    for name, shape in shapes.items():
        kind = np.dtype(np.float32 if is_f32(name) else np.float16)
        writer.add_tensor_info(name, shape, kind, int(np.prod(shape)) * kind.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer, shapes, is_f32


def write(path, vocabulary, *shape):
    """Writes one model tensor by tensor, beside its place first."""
    beside = path.with_suffix(".part")
    writer, shapes, is_f32 = begin(beside, vocabulary, *shape)
    random = np.random.default_rng(260)
    for name, shape in shapes.items():
        if len(shape) == 1:
            values = np.full(shape, 1 if name.endswith("weight") else 0, dtype=np.float32)
        else:
            values = random.standard_normal(shape, dtype=np.float32) * np.float32(SPREAD)
        writer.write_tensor_data(values if is_f32(name) else values.astype(np.float16))
    writer.close()
    beside.rename(path)


def quantize(smidgen, folder, name, text, types):
    """Writes every type of one model that is not there yet."""
    source = next(path for kind in ("F16", "F32") if (path := folder / f"{name}-{kind}.gguf").exists())
    for kind in types:
        path = folder / f"{name}-{kind}.gguf"
        if path.exists():
            continue
        words = [smidgen, "quantize", source, path, kind]
        words += [] if kind.endswith("_W") else ["--fallback", "llama"]
        words += ["-f", text] if kind in NEEDS_TEXT else []
        done = subprocess.run(words, capture_output=True, text=True)
        print(path if done.returncode == 0 else f"no {path.name}: {done.stderr.strip().splitlines()[-1]}", flush=True)


def main():
    smidgen, data, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "text.txt"
    text.write_text(TEXT * 200)
    for name in sys.argv[4:] or ["stories260K", *SHAPES]:
        name, _, only = name.partition(":")
        if name == "stories260K":
            stories, path = data / "gguf/stories260K-v1-f32.gguf", folder / "stories260K-F32.gguf"
            if not stories.exists():
                print(f"no {name}: there is no {stories}", flush=True)
                continue
            if not path.exists():
                subprocess.run([smidgen, "convert", stories, path], check=True, capture_output=True)
        else:
            arch, vocabulary, *shape = SHAPES[name]
            path = folder / f"{name}-F16.gguf"
            if not path.exists():
                write(path, vocabulary and data / f"tok/ggml-vocab-{vocabulary}.gguf", arch, *shape)
        print(path, flush=True)
        quantize(smidgen, folder, name, text, [only] if only else TYPES)


if __name__ == "__main__":
    main()
