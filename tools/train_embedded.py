"""Trains the model that is embedded in the `smidgen` binary, on one CPU thread, with plain `transformers`.

A small llama (1.4M weights) of children's stories. The stories at hand are few (2 MB of TinyStories), so a first step
lets stories260K, which has seen all of TinyStories, continue openings of those few; the student then learns from the
real stories, the continuations and a little of the public-domain stories, and ends on the real ones.

    export SMIDGEN_DATA=...            # the shared data directory
    python tools/train_embedded.py teach taught.txt                  # about 10 minutes
    python tools/train_embedded.py train taught.txt embedded-hf --minutes 60
    python tools/train_embedded.py judge embedded-hf                 # bits per character, samples
    smidgen convert embedded-hf models/tales.gguf --outtype q8_0

`train` is a fixed number of steps on fixed seeds; `--steps` gives the number that `models/README.md` records.
"""

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import llama2c

END = "<|endoftext|>"
DATA = Path(os.environ.get("SMIDGEN_DATA", "../shared/data"))


def stories(name):
    """The stories of a text file: trimmed, one newline between paragraphs."""
    text = (DATA / "text" / name).read_text()
    parts = text.split(END) if END in text else [text]
    return ["\n".join(line.strip() for line in part.splitlines() if line.strip()) for part in parts if part.strip()]


@torch.no_grad()
def teach(out, n_batches, batch=256):
    """Writes stories that stories260K tells when it is given the first tokens of a real one."""
    torch.manual_seed(1)
    teacher = llama2c.load_hf(DATA / "llama2c/stories260K.bin")
    tokenizer = llama2c.Tokenizer(DATA / "llama2c/tok512.bin", 512)
    openings = [tokenizer.encode(story[:160]) for story in stories("tinystories.txt")]
    dice, kept = np.random.default_rng(1), 0
    with open(out, "w") as file:
        for index in range(n_batches):
            n = (1, 12, 20, 32)[index % 4]
            picked = dice.choice(len(openings), batch)
            prompt = torch.tensor([openings[story][:n] for story in picked if len(openings[story]) >= n])
            told = teacher.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=0.8, top_p=0.95, top_k=0,
                max_new_tokens=440 - n, eos_token_id=1, pad_token_id=1,
            )  # fmt: skip
            for row in told.tolist():
                if 1 not in row[1:]:
                    continue  # Cut off by the length: a story should end.
                text = tokenizer.decode(row).decode("utf-8", "replace").strip()
                file.write("\n".join(line.strip() for line in text.splitlines() if line.strip()) + f"\n{END}\n")
                kept += 1
            print(f"batch {index + 1} of {n_batches}: {kept} stories", flush=True)


def train_tokenizer(texts):
    """Byte-level BPE of 2048 tokens with the pre-tokenizer that llama.cpp calls `smollm`; END is also BOS."""
    tokenizer = Tokenizer(models.BPE())
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2048, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END)


def windows(ids, dice, n, length):
    """`n` random windows of `length` tokens, (n, length)."""
    starts = dice.integers(0, len(ids) - length, n)
    return np.stack([ids[start : start + length] for start in starts])


def train(taught, out, minutes, stable_steps, batch=8, length=512, peak=3e-3):
    """Warm-up, a constant rate for three quarters of the time (or `stable_steps`), then linear decay to nothing."""
    torch.manual_seed(2)
    dice = np.random.default_rng(2)
    real, told = stories("tinystories.txt"), [s.strip() for s in Path(taught).read_text().split(END) if s.strip()]
    old = stories("pd-children-stories.txt")[0].split("\n")
    tokenizer = train_tokenizer(real + told[:1000] + old[:4000])
    tokenizer.save_pretrained(out)
    streams = []
    for texts in (real, told, ["\n".join(old[at : at + 12]) for at in range(0, len(old), 12)]):
        dice.shuffle(texts)
        rows = tokenizer(texts).input_ids
        streams.append(np.concatenate([np.asarray(row, np.int64) for row in rows]))
    print("tokens: real %d, taught %d, public domain %d" % tuple(map(len, streams)), flush=True)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=2048, max_position_embeddings=length, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
    start, step, total, mean = time.time(), 0, None, 0.0
    while total is None or step < total:
        if total is None and (step >= stable_steps if stable_steps else time.time() - start > 45 * minutes):
            stable_steps, total = step, step + max(step // 3, 1)
            print(f"decay begins after --stable-steps {step}; {total} steps in all", flush=True)
        decay = 1.0 if total is None else (total - step) / (total - stable_steps)
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 100) * decay
        # The real stories weigh more at the end, where a model learns what it will sound like.
        shares = (0.30, 0.62, 0.08) if total is None else (0.60, 0.38, 0.02)
        sources = dice.choice(3, batch, p=shares)
        ids = torch.from_numpy(np.concatenate([windows(streams[source], dice, 1, length) for source in sources]))
        loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, mean = step + 1, mean + (loss.item() - mean) * 0.02
        if step % 100 == 0:
            print(f"step {step}: loss {mean:.3f} nats/token, {time.time() - start:.0f} s", flush=True)
        if step % 500 == 0:
            model.save_pretrained(out)
            print(f"step {step}: {bits_per_character(model, tokenizer):.3f} bits/char on tinystories-valid", flush=True)
    model.save_pretrained(out)
    print(f"{step} steps of {batch * length} tokens in {time.time() - start:.0f} s", flush=True)


@torch.no_grad()
def bits_per_character(model, tokenizer, n_chunks=100, chunk=1000):
    """Over the first chunks of `tinystories-valid.txt`, each seen on its own behind BOS; paragraphs as in training."""
    text, bits, characters = stories("tinystories-valid.txt")[0], 0.0, 0
    for at in range(0, min(n_chunks * chunk, len(text)), chunk):
        ids = torch.tensor([tokenizer(text[at : at + chunk]).input_ids])
        log_probs = model(ids).logits[0, :-1].log_softmax(-1)
        bits -= log_probs.gather(1, ids[0, 1:, None]).sum().item() / math.log(2)
        characters += len(text[at : at + chunk])
    return bits / characters


def judge(directory):
    """Prints bits per character over the whole validation text and samples to read."""
    torch.manual_seed(3)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory).eval(), load_tokenizer(directory)
    print(f"{sum(p.numel() for p in model.parameters())} weights")
    print(f"{bits_per_character(model, tokenizer, 10**9):.4f} bits/char on tinystories-valid")
    for prompt in ("Once upon a time", "One day, a girl named Lily", "The little dog", "Tom and his mother went to the"):
        for temperature in (0.0, 0.7):
            ids = torch.tensor([tokenizer(prompt).input_ids])
            how = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
            told = model.generate(ids, max_new_tokens=220, pad_token_id=0, **how)
            print(f"--- {prompt!r} at temperature {temperature}\n{tokenizer.decode(told[0], skip_special_tokens=True)}")


def load_tokenizer(directory):
    """The tokenizer.json of `directory` alone, so that no model-specific class rewrites it."""
    return PreTrainedTokenizerFast(tokenizer_file=str(Path(directory) / "tokenizer.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("teach")
    command.add_argument("out")
    command.add_argument("--batches", type=int, default=24)
    command = commands.add_parser("train")
    command.add_argument("taught")
    command.add_argument("out")
    command.add_argument("--minutes", type=float, default=60.0)
    command.add_argument("--stable-steps", type=int, help="instead of the clock: steps before the decay")
    commands.add_parser("judge").add_argument("directory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "teach":
        teach(arguments.out, arguments.batches)
    elif arguments.command == "train":
        train(arguments.taught, arguments.out, arguments.minutes, arguments.stable_steps)
    else:
        judge(arguments.directory)


if __name__ == "__main__":
    main()
