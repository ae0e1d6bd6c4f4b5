"""From a slice to its grid, in memory and as a Zarr store with an inventory."""
