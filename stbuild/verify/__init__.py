"""Every claim of a corpus, re-checked: files, digests, tar bytes, samples, tables, splits.

Nothing is believed because another part of the corpus says so; each bad file and sample is named.
"""

from stbuild.verify.whole import VerifyReport, verify_corpus

__all__ = ["VerifyReport", "verify_corpus"]
