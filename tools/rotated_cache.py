"""Asks whether a rotation pays in a four-bit cache: keys and values are multiplied with a Hadamard matrix before rounding.

    pip install torch transformers
    python tools/rotated_cache.py ../shared/data WIDE > bench/record/$(date -u +%F)-rotated-cache.json

The rotation is orthogonal and falls out of the products of keys with queries; it spreads what is large in one place of a head
over all of it. Rounding is the cache's q4_0 (`docs/adr/0052-four-bit-cache.md`), in `transformers`: mean KL divergence in nats from the exact
cache over 8 chunks of 256 tokens of the validation text. WIDE is the model of `tools/train_embedded.py`.
"""

import math
import platform
import sys
from pathlib import Path

import llama2c
import torch
from record import show
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.integrations.sdpa_attention import sdpa_attention_forward

CHUNKS, CONTEXT = 8, 256
# What becomes of keys and values; "rotated" rounds behind the rotation.
CACHES = [("rounded", "exact"), ("rotated", "exact"), ("exact", "rounded"), ("exact", "rotated")]
cache = ("exact", "exact")


def rotation(n):
    """The Hadamard matrix of Sylvester's construction, (n, n), orthonormal; of the largest power of two that divides n."""
    size, matrix = n & -n, torch.ones(1, 1)
    while matrix.shape[0] < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)]) / math.sqrt(2)
    return torch.block_diag(*[matrix] * (n // size))


def q4_0(x):
    """`x`, (..., head), as the cache reads it back."""
    head = x.shape[-1]
    blocks = x.reshape(*x.shape[:-1], -1, 32 if head % 32 == 0 else head)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    scale = (largest / -8).half().float()
    codes = torch.where(scale == 0, torch.zeros(()), (blocks / scale).round().clamp(-8, 7))
    return (codes * scale).reshape(x.shape)


def stored(x, how):
    if how == "rotated":
        turn = rotation(x.shape[-1])
        return q4_0(x @ turn) @ turn.T
    return q4_0(x) if how == "rounded" else x


def attention(module, query, key, value, *arguments, **options):
    return sdpa_attention_forward(module, query, stored(key, cache[0]), stored(value, cache[1]), *arguments, **options)


@torch.no_grad()
def divergences(model, ids):
    """Mean divergence of each of CACHES."""
    global cache
    scores = {}
    for cache in [("exact", "exact"), *CACHES]:
        scores[cache] = torch.cat([model(chunk[None]).logits[0, CONTEXT // 2 :].double().log_softmax(-1) for chunk in ids])
    truth = scores[("exact", "exact")]
    return {how: (truth.exp() * (truth - scores[how])).sum(-1).mean().item() for how in CACHES}


def models(data, wide):
    """Name, model and token ids of the text of each."""
    text = (data / "text/tinystories-valid.txt").read_text()[:40_000]
    tokenizer = llama2c.Tokenizer(data / "llama2c/tok512.bin", 512)
    yield "stories260K", llama2c.load_hf(data / "llama2c/stories260K.bin"), tokenizer.encode(text)
    for name, path in [("tales-3m", data / "hf/tales-3m"), ("wide", wide)]:
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"))
        yield name, AutoModelForCausalLM.from_pretrained(path), tokenizer(text).input_ids


def main():
    torch.set_num_threads(1)
    AttentionInterface.register("stored", attention)
    rows = []
    for name, model, ids in models(Path(sys.argv[1]), Path(sys.argv[2])):
        model.eval().set_attn_implementation("stored")
        ids = torch.tensor(ids[: CHUNKS * CONTEXT]).reshape(CHUNKS, CONTEXT)
        head = model.config.hidden_size // model.config.num_attention_heads
        for (keys, values), divergence in divergences(model, ids).items():
            row = {"model": name, "head_dim": head, "keys": keys, "values": values}
            rows.append(row | {"kl_mean": float(f"{divergence:.4g}")})
            print(rows[-1], file=sys.stderr, flush=True)
    show("python tools/rotated_cache.py ../shared/data wide", platform.machine(), rows)


if __name__ == "__main__":
    main()
