"""Errors that the user can put right; the messages say how."""

from __future__ import annotations


class OutputError(ValueError):
    """The output folder cannot be used."""


class MeasuringError(RuntimeError):
    """Measuring cannot go on; the message says why, and what is kept."""


class FeaturesError(ValueError):
    """A file given as --features cannot be used."""
