"""What becomes of a caption before it is encoded: words around it, and its tags in other orders."""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..config import TrainConfig

VARIANTS = 16  # of each caption whose tags are shuffled or left out


@dataclass(frozen=True)
class CaptionStyle:
    """sd-scripts' options for captions, with its names; a variant is drawn for each use.

    Text embeddings are computed once, so the variants of a caption are: VARIANTS of them, drawn
    anew for each seed.
    """

    caption_prefix: str | None = None
    caption_suffix: str | None = None
    shuffle_caption: bool = False
    keep_tokens: int = 0
    caption_separator: str = ","
    caption_tag_dropout_rate: float = 0.0

    @classmethod
    def of(cls, config: TrainConfig) -> CaptionStyle:
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    def caption(self, text: str) -> str:
        """The caption with the words around it."""
        parts = [part for part in (self.caption_prefix, text, self.caption_suffix) if part]
        return " ".join(parts)

    def variants(self, caption: str, seed: int) -> tuple[str, ...]:
        """Captions to draw from, some perhaps equal; none where the caption never changes.

        The first `keep_tokens` tags stay where they are.
        """
        if not (self.shuffle_caption or self.caption_tag_dropout_rate):
            return ()
        tags = [tag.strip() for tag in caption.split(self.caption_separator)]
        kept, loose = tags[: self.keep_tokens], tags[self.keep_tokens :]
        source = random.Random(f"{seed}/variants/{caption}")
        return tuple(", ".join([*kept, *self._drawn(loose, source)]) for _ in range(VARIANTS))

    def _drawn(self, tags: list[str], source: random.Random) -> list[str]:
        drawn = source.sample(tags, len(tags)) if self.shuffle_caption else tags
        return [tag for tag in drawn if source.random() >= self.caption_tag_dropout_rate]
