"""From observed sites back to the source's spots or cells, where several share a site."""

from dataclasses import replace

from stbuild.corpus.reader import Corpus
from sttrain.embed.embeddings import Embeddings, SliceEmbedding


def spread_to_members(corpus: Corpus, embeddings: Embeddings) -> Embeddings:
    """Give every spot or cell of the source the vector of the site that it lies in.

    Slices without shared sites (all layouts but ``bin`` and summed collisions) stay as they are.

    Parameters
    ----------
    corpus
        Evaluation corpus; its whole-slice samples hold the map.
    embeddings
        One vector per observed site.
    """
    slices = dict(embeddings.slices)
    for split in corpus.document.splits("slice"):
        for whole in corpus.whole_slices(split):
            if whole.members is None or whole.seats is None:
                continue
            part = slices[whole.meta.slice]
            sites = whole.seats.tolist()
            slices[whole.meta.slice] = SliceEmbedding(
                barcodes=tuple(raw.decode() for raw in whole.members.tolist()),
                matrix=part.matrix[whole.seats],
                labels=None if part.labels is None else tuple(part.labels[i] for i in sites),
            )
    made_from = {**embeddings.provenance, "per_member": True}
    return replace(embeddings, slices=slices, provenance=made_from)
