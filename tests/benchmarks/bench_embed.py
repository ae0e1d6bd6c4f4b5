"""Embedding: spots a second of one core, from shards to one vector a spot.

Both read the same checked patches and take the same means over windows; the peer's encoder is
that of :mod:`tests.benchmarks.plain`, every site a token, under ``torch.inference_mode``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sttrain.embed.spots import embed_corpus
from sttrain.model.autoencoder import MaskedAutoencoder, normalise
from sttrain.train.config import load_config
from tests.benchmarks.bench import Bench
from tests.benchmarks.bench_step import RECIPE
from tests.benchmarks.plain import PlainAutoencoder
from tests.benchmarks.timing import spread, take_turns, times_as_fast

HEAD = [
    "| encoder | spots per CPU-second | windows per CPU-second | times PyTorch's own |",
    "|---|---:|---:|---:|",
]


class PlainEncoder:
    """The peer's encoder as :func:`sttrain.embed.spots.embed_corpus` asks for one."""

    def __init__(self, model: PlainAutoencoder) -> None:
        # Its fused path takes what is added to the scores for a mask, and yields NaN.
        torch.backends.mha.set_fastpath_enabled(False)
        self.model = model.eval()

    def encode(
        self, counts: Tensor, genes: Tensor, totals: Tensor, layer: int | None = None
    ) -> Tensor:
        """Return (B, L, D) features, 0 at unobserved sites; there are no layers to choose."""
        sites = normalise(counts, genes, totals)
        x = self.model.norm(self.model.encode(sites)[0])
        return torch.where(sites.observed[..., None], x, 0)


def lines(bench: Bench) -> list[str]:
    """Embed an evaluation corpus in turns and return the table."""
    torch.set_num_threads(1)
    corpus, config = bench.evaluation(), load_config(RECIPE, {})
    n_genes = corpus.document.vocabulary.n_genes
    ours = MaskedAutoencoder(config.model, n_genes, torch.Generator().manual_seed(0)).eval()
    plain = PlainEncoder(PlainAutoencoder(config.model, n_genes))
    base = "`nn.TransformerEncoderLayer`, float32"
    ways: dict[str, Callable[[], object]] = {
        base: lambda: embed_corpus(corpus, plain, provenance={}),
        "sttrain, float32": lambda: embed_corpus(corpus, ours, provenance={}),
    }
    spots = sum(part.n_spots for part in embed_corpus(corpus, ours, provenance={}).coverage)
    windows = sum(shard.n_samples for shard in corpus.document.shards if shard.kind == "patch")
    found = take_turns(ways, bench.repeats)
    rows = []
    for name, seconds in found.items():
        rates = [spread([n / s for s in seconds], 1) for n in (spots, windows)]
        rows.append(f"| {name} | {' | '.join(rates)} | {times_as_fast(seconds, found[base])} |")
    what = f"{RECIPE.name}'s encoder with random weights; {spots:,} spots in {windows} windows."
    return [what, "", *HEAD, *rows]
