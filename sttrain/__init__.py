"""Stream a corpus of spatial-transcriptomics patches, pretrain on it, and judge what was learnt.

The steps, a package each: ``stream``, ``model``, ``train``, ``release``, ``embed``, ``judge``,
``adapters``, ``bench``; none imports from one that comes after it. Of :mod:`stbuild` only
:mod:`stbuild.corpus`, the on-disk contract, is ever imported.
"""

__version__ = "0.1.0"
