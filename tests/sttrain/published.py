"""Small folders of published weights, and scGPT's vectors worked out the slow and obvious way.

The folders have the true layout: names, shapes and files of the published ones at a small width.
The computation shares nothing with the package but NumPy: loops over spots, heads and tokens.
"""

import csv
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch

D, HEADS, FFN, LAYERS = 32, 4, 32, 2
PAD_VALUE = -2


def make_vocabulary(genes):
    """Genes in an order of their own, the three special tokens behind them, as published."""
    order = np.random.default_rng(5).permutation(len(genes))
    tokens = [genes[i] for i in order] + ["<pad>", "<cls>", "<eoc>"]
    return {token: row for row, token in enumerate(tokens)}


def make_tensors(n_tokens, *, spatial=False, attention="Wqkv."):
    """The tensors of a checkpoint by name, in the published order."""
    rng = np.random.default_rng(6)

    def draw(*shape, scale=0.4):
        return torch.from_numpy(rng.normal(0, scale, shape).astype(np.float32))

    def linear(name, out, inside, *, bias=True):
        found = {f"{name}.weight": draw(out, inside)}
        return found | ({f"{name}.bias": draw(out)} if bias else {})

    def norm(name):
        return {f"{name}.weight": 1 + draw(D), f"{name}.bias": draw(D)}

    tensors = {"encoder.embedding.weight": draw(n_tokens, D, scale=1)}
    tensors |= norm("encoder.enc_norm")
    tensors |= {"flag_encoder.weight": draw(2, D)}
    tensors |= linear("value_encoder.linear1", D, 1) | linear("value_encoder.linear2", D, D)
    tensors |= norm("value_encoder.norm")
    if spatial:
        tensors |= {"batch_encoder.embedding.weight": draw(4, D)} | norm("batch_encoder.enc_norm")
    for number in range(LAYERS):
        layer = f"transformer_encoder.layers.{number}"
        tensors |= {
            f"{layer}.self_attn.{attention}weight": draw(3 * D, D),
            f"{layer}.self_attn.{attention}bias": draw(3 * D),
        }
        impl = "_impl." if attention.startswith("_impl.") else ""
        tensors |= linear(f"{layer}.self_attn.{impl}out_proj", D, D)
        tensors |= linear(f"{layer}.linear1", FFN, D) | linear(f"{layer}.linear2", D, FFN)
        tensors |= norm(f"{layer}.norm1") | norm(f"{layer}.norm2")
    d_in = 2 * D if spatial else D
    if spatial:
        for expert in range(4):
            tensors |= linear(f"decoder.moe.experts.{expert}.fc.0", D, d_in)
            tensors |= linear(f"decoder.moe.experts.{expert}.fc.2", D, D)
            tensors |= linear(f"decoder.moe.experts.{expert}.fc.4", 1, D)
        tensors |= linear("decoder.moe.gate.gate", 4, d_in)
    else:
        tensors |= linear("decoder.fc.0", D, D) | linear("decoder.fc.2", D, D)
        tensors |= linear("decoder.fc.4", 1, D)
    for name in ("mvc_decoder", "impute_mvc_decoder")[: 1 + spatial]:
        tensors |= linear(f"{name}.gene2query", D, D) | linear(f"{name}.W", d_in, D, bias=False)
    return tensors


def make_arguments(**changes):
    """``args.json`` with keys of training that nobody needs, as published."""
    return {
        "data_source": "somewhere", "n_hvg": None, "pad_token": "<pad>", "input_style": "binned",
        "input_emb_style": "continuous", "n_bins": 51, "max_seq_len": 1200,
        "mask_ratio": [0.25, 0.5], "lr": 5e-05, "warmup_ratio_or_step": 10000.0,
        "nlayers": LAYERS, "nheads": HEADS, "embsize": D, "d_hid": FFN, "dropout": 0.0,
        "n_layers_cls": 3, "mask_value": -1, "pad_value": PAD_VALUE, **changes,
    }  # fmt: skip


def make_means(n_tokens):
    """Means of two thirds of the genes, as the published table lacks many."""
    rng = np.random.default_rng(7)
    return {row: float(rng.uniform(0.2, 3)) for row in range(n_tokens) if row % 3 != 1}


def write_folder(root, genes, *, spatial=False, attention="Wqkv."):
    """Write a folder of weights over some genes."""
    root.mkdir(parents=True)
    vocabulary = make_vocabulary(genes)
    torch.save(
        make_tensors(len(vocabulary), spatial=spatial, attention=attention), root / "best_model.pt"
    )
    (root / "args.json").write_text(json.dumps(make_arguments(), indent=2))
    (root / "vocab.json").write_text(json.dumps(vocabulary))
    if spatial:
        with (root / "all_dict_mean_std.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["", "mean"])
            rows.writerows(make_means(len(vocabulary)).items())
        (root / "batch_mapping_dict.json").write_text('{"merfish": 0, "visium": 1}')
    return root


def read_folder(root: Path):
    """The tensors as float64 arrays under the names of flash attention, and the vocabulary."""
    found = torch.load(root / "best_model.pt", weights_only=True)  # noqa: TID251 - written above
    tensors = {
        name.replace("_impl.", "").replace("in_proj_", "Wqkv."): value.numpy().astype(np.float64)
        for name, value in found.items()
    }
    return tensors, json.loads((root / "vocab.json").read_text())


def uniforms(purpose, seed, barcode, n):
    """The keyed numbers, by the documented rule."""
    key = sha256(f"{purpose}\0{seed}\0{barcode}".encode()).digest()[:16]
    words = [int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")]
    raw = np.random.Philox(key=np.array(words, np.uint64)).random_raw(n)
    return np.array([(int(word) >> 11) / 2**53 for word in raw])


def reference_bins(values, ties):
    """Bins by counting edges one value after the other."""
    edges = np.quantile(values, np.linspace(0, 1, 50))
    bins = []
    for value, tie in zip(values, ties, strict=True):
        most = sum(edge <= value for edge in edges)
        least = sum(edge < value for edge in edges)
        bins.append(int(np.ceil(tie * (least - most) + most)))
    return bins


def reference_vector(root: Path, genes, values, barcode, *, seed=0, max_length=1200):
    """The vector of one spot from its genes' symbols and the values to be binned."""
    tensors, vocabulary = read_folder(root)
    rows = [vocabulary[gene] for gene in genes]
    bins = reference_bins(values, uniforms("scgpt-ties", seed, barcode, len(rows))) if rows else []
    if len(rows) + 1 > max_length:
        order = np.argsort(uniforms("scgpt-subsample", seed, barcode, len(rows)), kind="stable")
        kept = set(order[: max_length - 1].tolist())
        rows = [row for i, row in enumerate(rows) if i in kept]
        bins = [value for i, value in enumerate(bins) if i in kept]
    rows, bins = [vocabulary["<cls>"], *rows], [PAD_VALUE, *bins]
    tokens = [
        _norm(tensors, "encoder.enc_norm", tensors["encoder.embedding.weight"][row])
        + _code(tensors, min(value, 512))
        for row, value in zip(rows, bins, strict=True)
    ]
    for number in range(LAYERS):
        tokens = _layer(tensors, f"transformer_encoder.layers.{number}", tokens)
    return tokens[0] / np.sqrt(np.sum(tokens[0] ** 2))


def reference_values(whole, spot, genes, vocabulary):
    """Symbols and counts of one spot that the vocabulary has."""
    own = np.s_[whole.indptr[spot] : whole.indptr[spot + 1]]
    pairs = zip(whole.indices[own].tolist(), whole.data[own].tolist(), strict=True)
    return [(genes[gene], count) for gene, count in pairs if genes[gene] in vocabulary]


def reference_spatial(pairs_of_spots, vocabulary):
    """Symbols and normalised values of every spot of one slice."""
    means = make_means(len(vocabulary))
    counts = [count for pairs in pairs_of_spots for _, count in pairs]
    slide = sum(counts) / len(counts)
    own: dict[str, list[float]] = {}
    for pairs in pairs_of_spots:
        for gene, count in pairs:
            own.setdefault(gene, []).append(count / slide)
    return [
        [
            (gene, np.float32(count / slide / means.get(vocabulary[gene], np.mean(own[gene]))))
            for gene, count in pairs
        ]
        for pairs in pairs_of_spots
    ]


def _norm(tensors, name, x):
    centred = x - x.mean()
    scaled = centred / np.sqrt((centred**2).mean() + 1e-5)
    return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def _linear(tensors, name, x):
    return tensors[f"{name}.weight"] @ x + tensors[f"{name}.bias"]


def _code(tensors, value):
    hidden = np.maximum(_linear(tensors, "value_encoder.linear1", np.array([float(value)])), 0)
    return _norm(tensors, "value_encoder.norm", _linear(tensors, "value_encoder.linear2", hidden))


def _layer(tensors, name, tokens):
    d = D // HEADS
    qkv = [_linear(tensors, f"{name}.self_attn.Wqkv", token) for token in tokens]
    found = []
    for i, token in enumerate(tokens):
        mixed = np.zeros(D)
        for head in range(HEADS):
            at = np.s_[head * d : (head + 1) * d]
            q = qkv[i][:D][at]
            scores = np.array([q @ other[D : 2 * D][at] for other in qkv]) / np.sqrt(d)
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            mixed[at] = sum(w * other[2 * D :][at] for w, other in zip(weights, qkv, strict=True))
        x = _norm(
            tensors, f"{name}.norm1", token + _linear(tensors, f"{name}.self_attn.out_proj", mixed)
        )
        hidden = np.maximum(_linear(tensors, f"{name}.linear1", x), 0)
        found.append(
            _norm(tensors, f"{name}.norm2", x + _linear(tensors, f"{name}.linear2", hidden))
        )
    return found
