"""The base of all errors whose message is for the user."""

from __future__ import annotations

from .text import visible


class MessageError(Exception):
    """Its message can be shown anywhere: what a terminal or page cannot take is escaped."""

    def __init__(self, message: object) -> None:
        super().__init__(visible(str(message)))
