"""Stream a corpus of spatial-transcriptomics patches, pretrain on it, and judge what was learnt.

The steps, one module each: shard -> stream -> model -> embedding -> probe -> report. Of
:mod:`stbuild` only :mod:`stbuild.corpus`, the on-disk contract, is ever imported.
"""

__version__ = "0.1.0"
