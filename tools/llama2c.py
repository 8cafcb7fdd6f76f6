"""llama2.c's files read with numpy: the legacy `.bin` checkpoint, and the tokenizer exactly as its `run` uses it.

Source of both layouts: `run.c` of karpathy/llama2.c (`memory_map_weights`, `build_tokenizer`, `encode`, `decode`).
"""

import struct

import numpy as np


class Tokenizer:
    """A llama2.c `tokenizer.bin`. Ids 0, 1 and 2 are unk, BOS and EOS; ids 3..258 are bytes where the file has them."""

    def __init__(self, path, vocab_size):
        data = open(path, "rb").read()
        self.pieces, self.scores, at = [], [], 4
        for _ in range(vocab_size):
            score, length = struct.unpack_from("<fi", data, at)
            at += 8
            self.pieces.append(data[at : at + length])
            self.scores.append(score)
            at += length
        self.ids = {}
        for index, piece in enumerate(self.pieces):
            self.ids.setdefault(piece, index)

    def encode(self, text):
        """The prompt's ids with BOS, as `run` makes them: one space before the text, then best-scored pairs merged."""
        ids = [1]
        if text:
            ids.append(self.ids[b" "])
        for character in text:
            piece = character.encode()
            ids += [self.ids[piece]] if piece in self.ids else [byte + 3 for byte in piece]
        while True:
            best_score, best_at, best_id = -1e10, -1, -1
            for at in range(len(ids) - 1):
                merged = self.ids.get(self.pieces[ids[at]] + self.pieces[ids[at + 1]])
                if merged is not None and self.scores[merged] > best_score:
                    best_score, best_at, best_id = self.scores[merged], at, merged
            if best_at < 0:
                return ids
            ids[best_at : best_at + 2] = [best_id]

    def decode(self, ids):
        """The text of `ids`, without BOS and the space behind it."""
        text, previous = b"", None
        for token in ids:
            piece = self.pieces[token]
            if previous == 1 and piece.startswith(b" "):
                piece = piece[1:]
            if len(piece) == 6 and piece.startswith(b"<0x"):
                piece = bytes([int(piece[3:5], 16)])
            text += b"" if token == 1 else piece
            previous = token
        return text


def load_hf(path):
    """The legacy checkpoint at `path` as a `LlamaForCausalLM` in f32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    data = open(path, "rb").read()
    dim, hidden, n_layers, n_heads, n_kv_heads, vocab, seq_len = struct.unpack_from("<7i", data)
    head_dim, kv_dim = dim // n_heads, dim // n_heads * n_kv_heads
    floats, at = np.frombuffer(data, "<f4", offset=28), 0

    def take(*shape):
        nonlocal at
        n = int(np.prod(shape))
        at += n
        return torch.from_numpy(floats[at - n : at].reshape(shape).copy())

    def halves(weight, heads):
        """llama2.c rotates neighbours (2i, 2i + 1); `transformers` rotates (i, i + head_dim / 2)."""
        return weight.view(heads, head_dim // 2, 2, dim).transpose(1, 2).reshape(-1, dim)

    names = ["input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    names += ["post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj"]
    shapes = [(dim,), (dim, dim), (kv_dim, dim), (kv_dim, dim), (dim, dim)]
    shapes += [(dim,), (hidden, dim), (dim, hidden), (hidden, dim)]
    state = {"model.embed_tokens.weight": take(abs(vocab), dim)}
    for name, shape in zip(names, shapes):
        for layer, weight in enumerate(take(n_layers, *shape)):
            if "q_proj" in name or "k_proj" in name:
                weight = halves(weight, n_heads if "q_proj" in name else n_kv_heads)
            state[f"model.layers.{layer}.{name}.weight"] = weight
    state["model.norm.weight"] = take(dim)
    take(2, seq_len, head_dim // 2)  # The rotation table, which `run` has computed itself since its early days.
    state["lm_head.weight"] = state["model.embed_tokens.weight"] if vocab > 0 else take(-vocab, dim)
    assert at == len(floats), "the checkpoint is longer or shorter than its header says"
    config = LlamaConfig(
        hidden_size=dim, intermediate_size=hidden, num_hidden_layers=n_layers, num_attention_heads=n_heads,
        num_key_value_heads=n_kv_heads, vocab_size=abs(vocab), max_position_embeddings=seq_len, rms_norm_eps=1e-5,
        tie_word_embeddings=vocab > 0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state)
    return model
