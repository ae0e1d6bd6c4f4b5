"""Errors of the trainer: those of the contract, under one import path."""

from stbuild.corpus.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    DivergedError,
    IntegrityError,
    Problem,
    RemoteError,
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
    "RemoteError",
    "ResourceError",
    "StError",
    "printable",
]
