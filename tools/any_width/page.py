"""The plot and the tables of the study's page, made from its record."""

import re

MODEL_FIELDS = ("model", "bits_per_weight", "relative_error", "kl_mean", "kl_deviation")
CODES = {
    "uniform": "even levels", "lloyd": "Lloyd-Max levels", "trellis6": "trellis, 6-bit window",
    "trellis8": "trellis, 8-bit window", "iq2": "IQ2_XXS vectors",
}  # fmt: skip
CURVES = {
    "even levels, minimum, blocks of 32": {"code": "uniform", "block": 32, "scale": "int6+row", "minimum": True},
    "even levels": {"code": "uniform"},
    "Lloyd-Max levels": {"code": "lloyd"},
    "trellis": {},
    "trellis, error feedback": {"feedback": "paths"},
    "the same, embedding two bits above": {"feedback": "paths", "embedding": 2},
}
DEFAULTS = {
    "code": "trellis6", "block": 64, "scale": "e5m3", "tensor": False, "minimum": False, "importance": False,
    "feedback": None, "rotate": False, "embedding": None, "tied": "both",
}  # fmt: skip


def rows_of(record, question):
    """The rows that answer a question, those side by side that differ in one thing."""

    def order(row):
        code, own = list(CODES).index(row["code"]), row["embedding"] or row["bits"]
        step = (row["feedback"] or "", row["importance"], row["rotate"], row["minimum"], own, row["tied"])
        return (row["bits"], code, *step) if question == "code" else (code, row["bits"], *step)

    return sorted((row for row in record["results"] if question in row["questions"]), key=order)


def is_on_curve(row, different):
    """Whether a row is a default scheme but for what is `different`; the embedding's bits are those above the rest."""
    wanted = {**DEFAULTS, **different}
    if wanted["embedding"]:
        wanted["embedding"] += row["bits"]
    return all(row[key] == value for key, value in wanted.items())


def described(row):
    """What a scheme is, in words: its bits and whatever differs between the schemes of the study."""
    words = [f"{row['bits']} bits", CODES[row["code"]]]
    block = "a tensor" if row["tensor"] else "a row" if row["block"] is None else f"a block of {row['block']}"
    words.append(f"{row['scale']} scale for {block}" + (" and as wide a minimum" if row["minimum"] else ""))
    feedback = {"blocks": "feedback between blocks", "paths": "feedback along each path"}
    words += ["weighted search"] if row["importance"] else []
    words += [feedback[row["feedback"]]] if row["feedback"] else []
    words += ["rotated"] if row["rotate"] else []
    words += [f"embedding at {row['embedding']} bits"] if row["embedding"] else []
    words += ["embedding judged as an output only"] if row["tied"] == "output" else []
    return ", ".join(words)


def table(rows):
    """A Markdown table: true bits per weight and the mean KL on every model, the standard error behind it."""
    names = [model["model"] for model in rows[0]["models"]]
    lines = ["| stored as | bits per weight | " + " | ".join(f"KL {name}" for name in names) + " | geometric mean |"]
    lines.append("|---|---|" + "---|" * (len(names) + 1))
    for row in rows:
        cells = [f"{model['kl_mean']:.5f} ± {model['kl_deviation']:.5f}" for model in row["models"]]
        cells = [described(row), f"{row['bits_per_weight']:.3f}", *cells, f"{row['kl_geometric_mean']:.5f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill(record, path):
    """Writes each question's table between its `<!-- question: NAME -->` line and the end of the figures."""
    text = path.read_text()
    pattern = re.compile(r"(<!-- question: (\w+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)
    path.write_text(pattern.sub(lambda at: f"{at[1]}\n{table(rows_of(record, at[2]))}\n\n{at[3]}", text))


def draw(record, path):
    """KL against true bits per weight, one panel for each model, one line for each way to store."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "any-width"  # The same file from the same record.
    import matplotlib.pyplot as plt

    names = [model["model"] for model in record["results"][0]["models"]]
    figure, panels = plt.subplots(1, len(names), figsize=(4.2 * len(names), 4.6), sharey=True, layout="constrained")
    for index, (name, panel) in enumerate(zip(names, panels)):
        for label, different in CURVES.items():
            rows = [row for row in record["results"] if is_on_curve(row, different)]
            points = sorted((row["models"][index]["bits_per_weight"], row["models"][index]["kl_mean"]) for row in rows)
            panel.plot(*zip(*points), marker="o", markersize=3, linewidth=1.2, label=label)
        panel.set(title=name, yscale="log", xlabel="bits per weight, scales counted", xlim=(1.9, 6.4), ylim=(2e-4, 5))
        panel.grid(True, which="major", linewidth=0.4)
    panels[0].set_ylabel("mean KL from the f32 model, nats")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Date": None})
