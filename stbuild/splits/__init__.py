"""Who trains and who is judged: evaluation splits as files, and splits of a corpus by groups.

Evaluation splits (:mod:`~stbuild.splits.evaluation`) assign labelled spots; corpus splits
(:mod:`~stbuild.splits.corpus`) assign slices, or blocks of one slice
(:mod:`~stbuild.splits.masks`), whose windows are drawn inside their blocks
(:mod:`~stbuild.splits.block_windows`). All are pure functions; nothing here reads or writes a file.
"""

from stbuild.splits.block_windows import plan_blocks
from stbuild.splits.blocks import BUFFER_UM, assign_block20
from stbuild.splits.corpus import SplitMember, assign_splits, doubtful_splits
from stbuild.splits.evaluation import evaluation_splits
from stbuild.splits.masks import BlockMasks, block_split, window_origins
from stbuild.splits.random20 import assign_paper20

__all__ = [
    "BUFFER_UM",
    "BlockMasks",
    "SplitMember",
    "assign_block20",
    "assign_paper20",
    "assign_splits",
    "block_split",
    "doubtful_splits",
    "evaluation_splits",
    "plan_blocks",
    "window_origins",
]
