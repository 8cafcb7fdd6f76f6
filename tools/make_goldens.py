"""Writes `testdata/hf` and `testdata/stories`: what `transformers` says about the corners of each architecture.

    pip install -r tools/requirements.txt
    OMP_NUM_THREADS=1 python tools/make_goldens.py testdata
    OMP_NUM_THREADS=1 SMIDGEN_DATA=../shared/data python tools/make_goldens.py testdata --stories

A case of `testdata/hf` is a whole HF directory of random weights (config, safetensors, tokenizer) with
`golden.safetensors`: `input_ids` (tokens), `logits` f32 (tokens, vocab) of the prompt, `greedy_ids` (prompt + new).
Weights are drawn wide, so that heads attend sharply and no two logits of a greedy step lie within `MARGIN`: an engine
whose logits are right to `MARGIN / 2` has no excuse for another token.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import llama2c

MARGIN = 2e-3
N_VOCAB = 272
N_NEW = 16
# The tokenizer of every case is trained on this line, and the prompts are its beginning.
TEXT = (
    "Once upon a time there was a small fox. The fox said: 'I'll count 12 stars, or 345!' She counted until the "
    "morning came, and the naïve owl of the wood laughed and counted with her until there was not one star left."
)

LLAMA = {
    "hidden_size": 24, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4, "rms_norm_eps": 1e-5,
}  # fmt: skip
SHAPE = {"vocab_size": N_VOCAB, "max_position_embeddings": 96, "bos_token_id": 0, "eos_token_id": 0}


def rope(kind="default", theta=10000.0, **values):
    return {"rope_type": kind, "rope_theta": theta, **values}


# name: (config class, its values, prompt tokens, stored dtype, bytes per shard)
CASES = {
    "llama-untied-odd": (
        transformers.LlamaConfig,
        {
            **LLAMA, "hidden_size": 30, "intermediate_size": 46, "num_attention_heads": 5,
            "num_key_value_heads": 5, "head_dim": 6, "tie_word_embeddings": False,
            "rope_parameters": rope(theta=500000.0),
        }, 12, "float32", None,
    ),
    "llama-mqa-linear": (
        transformers.LlamaConfig,
        {
            **LLAMA, "num_key_value_heads": 1, "head_dim": 10, "tie_word_embeddings": True,
            "rope_parameters": rope("linear", factor=4.0),
        }, 20, "bfloat16", None,
    ),
    "llama-rope-llama3": (
        transformers.LlamaConfig,
        {
            **LLAMA, "hidden_size": 21, "intermediate_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1,
            "head_dim": 12, "tie_word_embeddings": True,
            "rope_parameters": rope(
                "llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                original_max_position_embeddings=32,
            ),
        }, 75, "float32", "20KB",
    ),
    "llama-rope-yarn": (
        transformers.LlamaConfig,
        {
            **LLAMA, "num_key_value_heads": 2, "head_dim": 14, "tie_word_embeddings": True,
            "max_position_embeddings": 128,
            "rope_parameters": rope("yarn", factor=4.0, original_max_position_embeddings=32),
        }, 45, "float32", None,
    ),
    "llama-rope-yarn-factors": (
        transformers.LlamaConfig,
        {
            **LLAMA, "num_key_value_heads": 4, "head_dim": 12, "tie_word_embeddings": True,
            "max_position_embeddings": 256,
            "rope_parameters": rope(
                "yarn", factor=4.0, original_max_position_embeddings=64, attention_factor=1.3, beta_fast=1.0,
                beta_slow=0.25,
            ),
        }, 40, "float32", None,
    ),
    "mistral-window": (
        transformers.MistralConfig,
        {
            **LLAMA, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False, "sliding_window": 8,
            "rope_parameters": rope(),
        }, 30, "float32", None,
    ),
    "qwen2-tied": (
        transformers.Qwen2Config,
        {
            **LLAMA, "hidden_size": 28, "num_key_value_heads": 1, "num_attention_heads": 2, "tie_word_embeddings": True,
            "rope_parameters": rope(theta=1e6),
        }, 20, "float16", None,
    ),
    "qwen2-untied-window": (
        transformers.Qwen2Config,
        {
            **LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": False, "use_sliding_window": True,
            "sliding_window": 7, "max_window_layers": 1, "rope_parameters": rope(),
        }, 24, "float32", None,
    ),
    "qwen3-untied": (
        transformers.Qwen3Config,
        {
            **LLAMA, "num_key_value_heads": 2, "head_dim": 10, "tie_word_embeddings": False,
            "rope_parameters": rope(theta=1e6),
        }, 20, "bfloat16", None,
    ),
    "gemma3-linear-window": (
        transformers.Gemma3TextConfig,
        {
            **LLAMA, "num_hidden_layers": 3, "num_key_value_heads": 2, "head_dim": 10, "query_pre_attn_scalar": 14,
            "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": rope("linear", 1e6, factor=8.0), "sliding_attention": rope(theta=5000.0),
            },
        }, 30, "float32", None,
    ),
    "gpt2-untied-odd": (
        transformers.GPT2Config,
        {
            "n_embd": 27, "n_layer": 2, "n_head": 3, "n_inner": 42, "max_position_embeddings": 64,
            "tie_word_embeddings": False,
        }, 14, "float32", None,
    ),
    "gpt-neo-window": (
        transformers.GPTNeoConfig,
        {
            "hidden_size": 26, "num_layers": 3, "attention_types": [[["global", "local"], 1], [["local"], 1]],
            "num_heads": 2, "intermediate_size": 38, "window_size": 6,
        }, 30, "float32", None,
    ),
}  # fmt: skip


def train_tokenizer(path):
    """A byte-level BPE of `N_VOCAB` tokens in GPT-2's form."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(path / "tokenizer.json"), pretty=False)
    (path / "tokenizer_config.json").write_text(
        '{"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}\n'
    )
    return tokenizer


@torch.no_grad()
def draw_weights(model, seed):
    """Fills every parameter: norms and biases too, because an engine that forgets one must not pass."""
    gemma = "Gemma" in type(model).__name__
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name or ".ln_" in name:
            unit = 0.0 if gemma or name.endswith("bias") else 1.0
            weight.copy_(unit + 0.2 * noise)
        elif weight.dim() == 1:
            weight.copy_(0.3 * noise)
        elif "embed" in name or "wte" in name or "wpe" in name or "lm_head" in name:
            # Gemma scales its embeddings; at 0.5 a tied head would only ever repeat the last token.
            weight.copy_((0.15 if gemma else 0.5) * noise)
        else:
            weight.copy_(1.2 * noise / weight.shape[1] ** 0.5)


@torch.no_grad()
def golden(model, prompt, n_new, end=None):
    """The golden tensors of `prompt`, and the smallest gap between the best two logits of a greedy step.

    The token `end`, if it comes, ends the ids and is not one of them.
    """
    ids, gap = list(prompt), float("inf")
    logits = model(torch.tensor([ids])).logits[0].float()
    for _ in range(n_new):
        last = model(torch.tensor([ids])).logits[0, -1].float()
        best = last.topk(2).values
        gap = min(gap, (best[0] - best[1]).item())
        if last.argmax().item() == end:
            break
        ids.append(last.argmax().item())
    tensors = {"input_ids": np.array(prompt, np.int32), "logits": logits.numpy(), "greedy_ids": np.array(ids, np.int32)}
    return tensors, gap


def make_case(root, name):
    """Writes one HF directory, with the first seed whose greedy steps are clear and do not only repeat."""
    config_class, values, n_prompt, dtype, shard = CASES[name]
    path = root / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    tokenizer = train_tokenizer(path)
    prompt = tokenizer.encode(TEXT).ids[:n_prompt]
    assert len(prompt) == n_prompt
    config = config_class(**{**SHAPE, **values}, attn_implementation="eager")
    for seed in range(100):
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        draw_weights(model, seed)
        model = model.to(getattr(torch, dtype))
        stored = {"max_shard_size": shard} if shard else {}
        model.save_pretrained(path, **stored)
        # What is stored is what is judged: rounded to `dtype`, then computed in f32.
        model = transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        tensors, gap = golden(model, prompt, N_NEW)
        n_ids = len(set(tensors["greedy_ids"][n_prompt:].tolist()))
        if gap > MARGIN and n_ids >= N_NEW // 2:
            break
    else:
        raise SystemExit(f"{name}: no seed gives clear and varied greedy steps")
    save_file(tensors, path / "golden.safetensors")
    size = sum(file.stat().st_size for file in path.iterdir())
    spread = tensors["logits"].std()
    print(f"{name}: seed {seed}, gap {gap:.4f}, logits' deviation {spread:.2f}, {n_ids} new ids, {size} bytes")
    return size


# What `run -t 0 -n 256` of llama2.c is asked; bytes that are no character of tok512 make it fall back to bytes.
STORIES = {
    "stories260K": (
        "stories260K.bin",
        "tok512.bin",
        ["Once upon a time", "", "Zoo", "Lily and Tom went to the park.", "Zoë saw 12 ☂"],
    ),
    "babyllama": ("babyllama.bin", "babyllama.tok.bin", ["Once upon a time", "", "The dog said"]),
}


def make_stories(root, data):
    """Writes what llama2.c's models tell: `NAME.json` (prompts, ids, text) and the last logits of each prompt."""
    root.mkdir(parents=True, exist_ok=True)
    for name, (checkpoint, pieces, prompts) in STORIES.items():
        model = llama2c.load_hf(data / checkpoint)
        model.set_attn_implementation("eager")
        tokenizer = llama2c.Tokenizer(data / pieces, model.config.vocab_size)
        told, last_logits = [], {}
        for index, prompt in enumerate(prompts):
            ids = tokenizer.encode(prompt)
            # `run` takes at most 256 steps, each one token after BOS, and no more than the model was trained on.
            tensors, gap = golden(model, ids, min(257, model.config.max_position_embeddings) - len(ids), end=1)
            greedy = tensors["greedy_ids"].tolist()
            text = tokenizer.decode(greedy).decode("utf-8", "replace")
            told.append({"prompt": prompt, "prompt_ids": ids, "greedy_ids": greedy, "text": text})
            last_logits[f"logits_{index}"] = tensors["logits"][-1].copy()
            print(f"{name}: {prompt!r}, {len(greedy)} ids, gap {gap:.5f}")
        (root / f"{name}.json").write_text(dump(told))
        save_file(last_logits, root / f"{name}.safetensors")


def dump(told):
    """JSON with one line per value."""
    lines = [",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in story.items()) for story in told]
    return "[\n" + ",\n".join(f" {{\n{line}\n }}" for line in lines) + "\n]\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("testdata", type=Path)
    parser.add_argument("cases", nargs="*", help="names of the cases to write; all when none is given")
    parser.add_argument("--stories", action="store_true", help="write testdata/stories from the shared data instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.stories:
        data = Path(os.environ.get("SMIDGEN_DATA", "../shared/data"))
        return make_stories(arguments.testdata / "stories", data / "llama2c")
    total = sum(make_case(arguments.testdata / "hf", name) for name in arguments.cases or CASES)
    print(f"{total} bytes in all")


if __name__ == "__main__":
    main()
