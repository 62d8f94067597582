"""Errors that the user can put right; the messages say how."""

from __future__ import annotations

from ..common.errors import MessageError


class OutputError(MessageError, ValueError):
    """The output folder cannot be used."""


class FeaturesError(MessageError, ValueError):
    """A file given as --features cannot be used."""
