"""The quality report of a plan: one self-contained HTML page."""

from stbuild.qc.page import write_qc

__all__ = ["write_qc"]
