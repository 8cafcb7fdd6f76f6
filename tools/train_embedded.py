"""Trains the model that is embedded in the `smidgen` binary, on one CPU thread, with plain `transformers`.

A small llama (1.4M weights) of children's stories. The stories at hand are few (2 MB of TinyStories), so a first step
lets stories260K, which has seen all of TinyStories, continue openings of those few; the student then learns from the
real stories, the continuations and a little of the public-domain stories, and ends on the real ones.

    export SMIDGEN_DATA=...            # the shared data directory
    export OMP_NUM_THREADS=1
    python tools/train_embedded.py teach taught.txt           # 4,916 stories; 7 minutes of one core
    python tools/train_embedded.py train taught.txt tales     # 2,000 steps of 4,096 tokens; 22 minutes
    python tools/train_embedded.py settle taught.txt tales    # 240 steps; 3 minutes
    python tools/train_embedded.py judge tales                # bits per character, samples
    smidgen convert tales models/tales.gguf --outtype q8_0

With `--wide`, `train` makes the model with which `tools/quality_against_llama_cpp.py` judges llama.cpp's formats of 256:

    python tools/train_embedded.py train taught.txt wide --wide --steps 600
    python tools/train_embedded.py settle taught.txt wide

Seeds and numbers of steps are fixed. `models/README.md` has the numbers that came of it.
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
    """The stories of a file of the shared data."""
    return stories_of(DATA / "text" / name)


def stories_of(path):
    """The stories of a text file: trimmed, one newline between paragraphs."""
    parts = path.read_text().split(END)
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


def load_streams(taught, tokenizer, dice):
    """The tokens of the real stories, the taught ones and the public-domain ones, each story behind BOS."""
    real, told = stories("tinystories.txt"), stories_of(Path(taught))
    old, streams = stories("pd-children-stories.txt")[0].split("\n"), []
    for texts in (real, told, ["\n".join(old[at : at + 12]) for at in range(0, len(old), 12)]):
        dice.shuffle(texts)
        streams.append(np.concatenate([np.asarray(row, np.int64) for row in tokenizer(texts).input_ids]))
    print("tokens: real %d, taught %d, public domain %d" % tuple(map(len, streams)), flush=True)
    return streams


def learn(model, streams, shares, n_steps, rate, dice, batch=8, length=512):
    """`n_steps` of AdamW at the learning rate `rate(step)`, on windows drawn from `streams` in these `shares`."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    start, mean = time.time(), 0.0
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        sources = dice.choice(3, batch, p=shares)
        ids = torch.from_numpy(np.concatenate([windows(streams[source], dice, 1, length) for source in sources]))
        loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean += (loss.item() - mean) / min(step + 1, 50)
        if (step + 1) % 20 == 0:
            print(f"step {step + 1}: loss {mean:.3f} nats/token, {time.time() - start:.0f} s", flush=True)


# Width, width of the feed-forward and layers: 1.4M weights, and 3.7M in rows of 256 and 768.
EMBEDDED, WIDE = (128, 384, 6), (256, 768, 4)


def train(taught, out, n_steps, shape, peak=3e-3):
    """A new tokenizer and a new model; warm-up, then a constant rate."""
    torch.manual_seed(2)
    old = stories("pd-children-stories.txt")[0].split("\n")
    tokenizer = train_tokenizer(stories("tinystories.txt") + stories_of(Path(taught))[:1000] + old[:4000])
    tokenizer.save_pretrained(out)
    config = LlamaConfig(
        hidden_size=shape[0], intermediate_size=shape[1], num_hidden_layers=shape[2], num_attention_heads=4,
        num_key_value_heads=2, vocab_size=2048, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    dice = np.random.default_rng(2)
    rate = lambda step: peak * min(1.0, (step + 1) / 100)
    learn(model, load_streams(taught, tokenizer, dice), (0.30, 0.62, 0.08), n_steps, rate, dice)
    model.save_pretrained(out)


def settle(taught, out, n_steps, peak=2e-3):
    """Goes on with the model in `out`: the rate falls to nothing, on the real stories for the most part."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), load_tokenizer(out)
    rate = lambda step: peak * min((step + 1) / 20, (n_steps - step) / n_steps)
    streams = load_streams(taught, tokenizer, np.random.default_rng(2))
    learn(model, streams, (0.60, 0.38, 0.02), n_steps, rate, np.random.default_rng(4))
    model.save_pretrained(out)


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
    for prompt in ("Once upon a time", "One day, a girl named Lily", "The little dog", "Tom and his mother went"):
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
    for name, n_steps in (("train", 2000), ("settle", 240)):
        command = commands.add_parser(name)
        command.add_argument("taught")
        command.add_argument("directory")
        command.add_argument("--steps", type=int, default=n_steps)
        if name == "train":
            command.add_argument("--wide", action="store_true")
    commands.add_parser("judge").add_argument("directory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "teach":
        teach(arguments.out, arguments.batches)
    elif arguments.command == "train":
        train(arguments.taught, arguments.directory, arguments.steps, WIDE if arguments.wide else EMBEDDED)
    elif arguments.command == "settle":
        settle(arguments.taught, arguments.directory, arguments.steps)
    else:
        judge(arguments.directory)


if __name__ == "__main__":
    main()
