"""Merge a Siamese bundle into its base model: one checkpoint, the same model bit for bit.

python training/merge_bundle.py base.safetensors siamese.safetensors merged.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    import checkout

    __package__ = checkout.enter_package()

from ..models.metadata import file_hash, read_metadata
from ..models.weights import Kind, WeightsError, merge, read_weights, write_weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 for files that are missing or do not belong together."""
    parser = argparse.ArgumentParser(prog="merge_bundle.py", description=__doc__)
    parser.add_argument("base", type=Path, help="the checkpoint that the bundle was trained on")
    parser.add_argument("bundle", type=Path, help="what train_siamese.py wrote")
    parser.add_argument("merged", type=Path, help=".safetensors file to write")
    given = parser.parse_args(arguments)
    try:
        merge_files(given.base, given.bundle, given.merged)
    except WeightsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(given.merged)
    return 0


def merge_files(base: Path, bundle: Path, merged: Path) -> None:
    """Write the merged checkpoint. Raises WeightsError when the bundle has another base."""
    weights = read_weights(bundle, expect=[Kind.BUNDLE])
    metadata = read_metadata(weights.metadata, str(bundle))
    base_hash = file_hash(base) if base.is_file() else ""
    if metadata is not None and base_hash and metadata.base_hash != base_hash:
        raise WeightsError(
            f"{bundle}: was trained on a base model with SHA-256 {metadata.base_hash}; {base} has "
            f"{base_hash}. Give the checkpoint it was trained on."
        )
    tensors = merge(read_weights(base, expect=[Kind.SD1, Kind.SD2]).tensors, weights)
    write_weights(merged, tensors, weights.metadata)


if __name__ == "__main__":
    sys.exit(main())
