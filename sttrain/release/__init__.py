"""Released weights: a folder that stands alone, written, and read while believing nothing of it."""
