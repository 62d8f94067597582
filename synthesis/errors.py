"""Errors whose message is for the person at the command line."""

from __future__ import annotations

from ..common.errors import MessageError


class SynthesisError(MessageError, ValueError):
    """Wrong flags, files that do not belong together, or a run that cannot go on."""


class StoppedError(SynthesisError):
    """A run that was under way cannot go on; what it has made stays."""
