"""Patches of a corpus, near or far: which one at which step, read ahead, each checked."""
