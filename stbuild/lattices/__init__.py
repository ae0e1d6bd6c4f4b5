"""From coordinates to grid cells: recognition of the lattice, and the layouts."""

from stbuild.lattices.assign import assign_cells
from stbuild.lattices.lattice import Lattice

__all__ = ["Lattice", "assign_cells"]
