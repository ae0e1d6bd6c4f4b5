"""Errors of the trainer: those of the contract, under one import path."""

from stbuild.corpus.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    DivergedError,
    IntegrityError,
    Problem,
    ResourceError,
    StError,
    printable,
)

__all__ = [
    "BadInputError",
    "BadUsageError",
    "ConflictError",
    "DivergedError",
    "IntegrityError",
    "Problem",
    "ResourceError",
    "StError",
    "printable",
]
