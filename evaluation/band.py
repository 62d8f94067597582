"""Which agreements between image and mask are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Band:
    """Agreements that are kept, both ends included, in 0..1."""

    low: float
    high: float

    def __contains__(self, agreement: float) -> bool:
        return self.low <= agreement <= self.high

    def reason(self, agreement: float) -> str:
        """Why a pair was dropped."""
        found = f"agreement {agreement:.3f} is"
        if agreement < self.low:
            return f"{found} below {self.low:g}: the image may not show its mask"
        return f"{found} above {self.high:g}: too easy to teach much"
