"""Genes: kinds of ids, tables of pairs, the vocabulary of a corpus."""
