"""Whether data of one split, donor or corpus stands in another: found by content, and certified.

:mod:`~stbuild.leakage.fingerprints` reads sections, :mod:`~stbuild.leakage.compare` compares two,
:mod:`~stbuild.leakage.check` judges all, :mod:`~stbuild.leakage.certificate` tells it to people.
"""

from stbuild.leakage.certificate import render_certificate
from stbuild.leakage.check import check_leakage, require_no_leak, undecided_notices
from stbuild.leakage.documents import LeakageReport
from stbuild.leakage.fingerprints import Section, gather_sections
from stbuild.leakage.windows import PlacedWindow

__all__ = [
    "LeakageReport",
    "PlacedWindow",
    "Section",
    "check_leakage",
    "gather_sections",
    "render_certificate",
    "require_no_leak",
    "undecided_notices",
]
