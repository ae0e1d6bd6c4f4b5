"""Pretraining: a corpus and a recipe to a run folder, on any number of ranks, resumable."""
