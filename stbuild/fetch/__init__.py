"""Getting the sources that a manifest lists: downloads, hashes, archives, a cache by content."""
