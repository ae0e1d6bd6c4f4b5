"""Turn spatial-transcriptomics slices into a fixed, reproducible patch corpus.

The steps, one module each: source -> slice -> grid -> patch -> shard. What lands on disk is
defined in :mod:`stbuild.corpus`. Nothing heavy is imported here.
"""

__version__ = "0.1.0"
