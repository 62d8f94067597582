"""Errors whose message is for the person at the command line."""

from __future__ import annotations


class SynthesisError(ValueError):
    """Wrong flags, files that do not belong together, or a run that cannot go on."""
