"""How to load a release: the code that stands in its card."""

from collections.abc import Iterator

from stbuild.corpus.documents import CorpusDocument

_READ = """import io, json, numpy as np, numcodecs

def decode(members):  # {"genes.npy": bytes, ...}; never unpickles
    load = lambda name: np.load(io.BytesIO(members[name]), allow_pickle=False)
    meta = json.loads(members["json"])
    if "counts.npy" in members:
        counts = load("counts.npy")
    else:
        raw = numcodecs.Blosc().decode(members["counts.blosc"])
        counts = np.frombuffer(raw, meta["dtype"]).reshape(meta["shape"])
    return meta, counts, load("genes.npy"), load("totals.npy")
"""


def render_loading(document: CorpusDocument) -> Iterator[str]:
    """Yield the lines of the section on loading; every snippet runs in the release's folder.

    Parameters
    ----------
    document
        The corpus; the first of its splits is taken for the snippets.
    """
    split = next(iter(document.splits()), "train")
    paths = [shard.path for shard in document.shards_of(split)]
    listed = f'["{paths[0]}"]' if len(paths) == 1 else f'["{paths[0]}", ...]'
    yield "## Load\n"
    yield "A patch is `counts` (genes, rows, columns), `genes` (indices into genes.parquet, -1 ="
    yield "padding) and `totals` (library sizes, 0 = not measured):\n"
    yield f"```python\n{_READ}```\n"
    yield "With `webdataset`, whole shards one after the other:\n"
    yield (
        "```python\nimport webdataset\n"
        f"shards = {listed}\n"
        "for sample in webdataset.WebDataset(shards, shardshuffle=False):\n"
        "    members = {k: v for k, v in sample.items() if not k.startswith('__')}\n"
        "    meta, counts, genes, totals = decode(members)\n```\n"
    )
    yield "With nothing but a tar reader, one sample by the index:\n"
    yield (
        "```python\nimport tarfile, pyarrow.parquet as pq\n"
        f'row = pq.read_table("index/{split}.parquet").slice(0, 1).to_pylist()[0]\n'
        f'with open("{paths[0]}", "rb") as f:\n'
        "    f.seek(row['offset']); raw = f.read(row['size'])\n"
        "with tarfile.open(fileobj=io.BytesIO(raw + bytes(1024)), mode='r:') as tar:\n"
        "    members = {m.name.partition('.')[2]: tar.extractfile(m).read() for m in tar}\n"
        "meta, counts, genes, totals = decode(members)\n```\n"
    )
    yield "With the Hub's library, and as Croissant:\n"
    yield (
        "```python\nimport datasets, mlcroissant\n"
        f'files = {{"{split}": {listed}}}\n'
        'patches = datasets.load_dataset("webdataset", data_files=files, streaming=True)\n'
        'index = mlcroissant.Dataset(jsonld="croissant.json").records("patches-'
        f'{split}")\n```\n'
    )
    yield "With ours (`pip install stcorpus`): exact order, resumption, digests checked:\n"
    yield "```sh\nsttrain fit . -c manifests/runs/small.toml -o run/\n```\n"
