"""A reader of the format from its description alone: nothing of ours is imported.

Written from ``manifests/schema/README.md``; at most 60 lines, which a test counts.
"""

import hashlib
import io
import json
import tarfile

import numcodecs
import numpy as np


def array(raw):
    values = np.load(io.BytesIO(raw), allow_pickle=False)  # noqa: TID251
    if raw[:8] != b"\x93NUMPY\x01\x00" or not values.flags.c_contiguous:
        raise ValueError("a member that is not as the format has it")
    return values


def counts(members, meta):
    if (raw := members.get("counts.npy")) is not None:
        return array(raw)
    raw = numcodecs.blosc.decompress(members["counts.blosc"])
    return np.frombuffer(raw, meta["dtype"]).reshape(meta["shape"])


def content(name_to_array, meta):
    digest = hashlib.sha256()
    for name, values in sorted(name_to_array.items()):
        head = [name, values.dtype.str, ",".join(map(str, values.shape)), ""]
        digest.update("\0".join(head).encode() + values.tobytes())
    text = json.dumps(meta, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest.update(b"json\0" + text.encode())
    return digest.digest()


def samples(root, shard):
    with tarfile.open(root / shard["path"], "r:") as tar:
        groups: dict[str, dict[str, bytes]] = {}
        for member in tar:
            key, _, suffix = member.name.partition(".")
            groups.setdefault(key, {})[suffix] = tar.extractfile(member).read()  # type: ignore[union-attr]
    for key, members in groups.items():
        meta = json.loads(members.pop("json"))
        plain = [suffix for suffix in members if not suffix.startswith("counts.")]
        found = {suffix.removesuffix(".npy"): array(members[suffix]) for suffix in plain}
        yield key, meta, found | ({"counts": counts(members, meta)} if "shape" in meta else {})


def read_corpus(root):
    document = json.loads((root / "corpus.json").read_bytes())
    for shard in document["shards"]:
        raw = (root / shard["path"]).read_bytes()
        chain = hashlib.sha256()
        for key, meta, found in samples(root, shard):
            chain.update(key.encode() + b"\0" + content(found, meta))
            yield key, meta, found
        if (hashlib.sha256(raw).hexdigest(), chain.hexdigest()) != (
            shard["sha256"],
            shard["content"],
        ):
            raise ValueError(shard["path"])
