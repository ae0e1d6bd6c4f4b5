"""The on-disk contract: names, documents, samples, digests, tar bytes, index.

This package is all that a reader of a corpus needs; it imports numpy, numcodecs and pydantic
(pyarrow only when an index is read or written). It neither builds patches nor trains models.
The prose specification is ``manifests/schema/README.md``.
"""
