"""The three real llama models of the shared data, their tokens, and what other weights do to their output."""

import subprocess
import tempfile

import numpy as np
import torch

import llama2c

CHUNK = 256
MODELS = {
    "stories260K": ("llama2c/stories260K.bin", "llama2c/tok512.bin"),
    "babyllama": ("llama2c/babyllama.bin", "llama2c/babyllama.tok.bin"),
    "tales-3m": ("hf/tales-3m", None),
}


class Subject:
    """A model in f32, chunks of text in its tokens, and the moments of every matrix's input."""

    def __init__(self, name, data, program, n_calibrate=64, n_judge=64):
        path, tokenizer = MODELS[name]
        self.name = name
        if tokenizer:
            self.model = llama2c.load_hf(data / path)
        else:
            from transformers import AutoModelForCausalLM

            self.model = AutoModelForCausalLM.from_pretrained(data / path, dtype=torch.float32).eval()
        words = [program, "tokenize", str(data / path), "--no-bos"]
        words += ["--tokenizer", str(data / tokenizer)] if tokenizer else []
        bos = self.model.config.bos_token_id
        calibrate = chunks(words, data / "text/tinystories.txt", 120_000, bos)[:n_calibrate]
        self.judge = chunks(words, data / "text/tinystories-valid.txt", 100_000, bos)[:n_judge]
        self.linears = {n: m for n, m in self.model.named_modules() if isinstance(m, torch.nn.Linear)}
        self.weights = {n: m.weight.detach().numpy().copy() for n, m in self.linears.items()}
        self.moments = self.measure_moments(calibrate)
        with torch.no_grad():
            self.base = [torch.log_softmax(self.model(batch).logits, -1) for batch in self.judge.split(16)]

    @torch.no_grad()
    def measure_moments(self, calibrate):
        """The mean of x x^T for the input x of every matrix, f64 (columns, columns)."""
        moments = {name: 0.0 for name in self.linears}

        def observe(name):
            def hook(_, inputs):
                x = inputs[0].reshape(-1, inputs[0].shape[-1]).double()
                moments[name] = moments[name] + x.T @ x

            return hook

        hooks = [linear.register_forward_pre_hook(observe(name)) for name, linear in self.linears.items()]
        for batch in calibrate.split(16):
            self.model(batch)
        for hook in hooks:
            hook.remove()
        return {name: (moment / calibrate.numel()).numpy() for name, moment in moments.items()}

    @torch.no_grad()
    def divergence(self, weights):
        """KL(f32 || with `weights`) in nats: its mean over all positions, and the standard error over chunks."""
        for name, linear in self.linears.items():
            linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))
        means = []
        for batch, base in zip(self.judge.split(16), self.base):
            other = torch.log_softmax(self.model(batch).logits, -1)
            means.append((base.exp() * (base - other)).sum(-1).mean(1))
        means = torch.cat(means).double()
        return float(means.mean()), float(means.std() / len(means) ** 0.5)


def chunks(words, path, n_bytes, bos):
    """The first `n_bytes` of a text as rows of BOS and `CHUNK - 1` tokens; the marks between stories are left out."""
    text = path.read_bytes()[:n_bytes].replace(b"<|endoftext|>\n", b"").replace(b"<|endoftext|>", b"\n")
    with tempfile.NamedTemporaryFile() as file:
        file.write(text)
        file.flush()
        out = subprocess.run([*words, "-f", file.name], check=True, capture_output=True, text=True).stdout
    ids = np.array(out.split(), np.int64)
    rows = ids[: len(ids) // (CHUNK - 1) * (CHUNK - 1)].reshape(-1, CHUNK - 1)
    return torch.from_numpy(np.concatenate([np.full((len(rows), 1), bos), rows], 1))
