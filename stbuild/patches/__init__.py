"""From a grid to patches: exact variances, gene choice, crops. Nothing is written."""
