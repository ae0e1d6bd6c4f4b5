"""From grids to a corpus: parts, shards, tables, documents; again, further, mended."""
