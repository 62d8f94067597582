"""Merge a Siamese bundle into its base model: one checkpoint, the same model bit for bit.

python training/merge_bundle.py base.safetensors siamese.safetensors merged.safetensors
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
    import bootstrap

    __package__ = bootstrap.enter_package(__file__)

from ..common.arguments import USER_ERROR, Parser, interrupted, say, unexpected
from ..common.hashes import file_hash
from ..common.text import visible
from ..models.fit import check_control
from ..models.kinds import ADVICE, UNET, Kind
from ..models.low_rank import expanded
from ..models.metadata import FOLDER_HASH, read_metadata, read_recipe
from ..models.weights import (
    SAFETENSORS,
    WeightsError,
    merge,
    read_weights,
    without_prefix,
    write_weights,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 for files that are missing or do not belong together; 130 for Ctrl-C."""
    parser = Parser(
        prog="merge_bundle.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", type=Path, help="the checkpoint that the bundle was trained on")
    parser.add_argument("bundle", type=Path, help="what train_siamese.py wrote")
    parser.add_argument("merged", type=Path, help=".safetensors file to write")
    given = parser.parse_args(arguments)
    try:
        merge_files(given.base, given.bundle, given.merged)
    except WeightsError as error:
        say(error)
        return USER_ERROR
    except KeyboardInterrupt:
        return interrupted()
    except Exception as error:
        return unexpected(error)
    print(visible(str(given.merged)))
    return 0


def merge_files(base: Path, bundle: Path, merged: Path) -> None:
    """Write the merged checkpoint; of a base that is a merged one, the ControlNet is replaced.

    Raises WeightsError when the bundle has another base, and for an output that is no
    .safetensors file or one of the inputs.
    """
    _check_output(merged, (base, bundle))
    weights = read_weights(bundle, expect=[Kind.BUNDLE, Kind.LOW_RANK])
    metadata = read_metadata(weights.metadata, str(bundle))
    tensors = read_weights(base, expect=[Kind.SD1, Kind.SD2, Kind.MERGED]).base()
    if metadata is not None:
        _check_hash(metadata.base_hash, bundle, base)
    read_recipe(weights)  # raises where it contradicts the weights
    unet = without_prefix(tensors, UNET)
    try:
        weights = expanded(weights, unet)
        check_control(weights, unet)
        result = merge(tensors, weights)
    except WeightsError as error:
        raise WeightsError(
            f"{error}. {base} is not what it was trained on: give that checkpoint."
        ) from error
    write_weights(merged, result, weights.metadata)


def _check_output(merged: Path, inputs: Sequence[Path]) -> None:
    if merged.suffix not in SAFETENSORS:
        raise WeightsError(
            f"{merged}: expected a name that ends in .safetensors, the format that is written."
        )
    for path in inputs:
        if os.path.realpath(merged) == os.path.realpath(path):
            raise WeightsError(f"{merged}: is one of the files to merge. Give a new name.")


def _check_hash(expected: str, bundle: Path, base: Path) -> None:
    """Raise WeightsError unless `base` is the file trained on; a folder's hash is only noted."""
    if expected.startswith(FOLDER_HASH):
        note = (
            f"note: {bundle}: was trained on a diffusers folder, which has no hash to compare with "
            f"{base}; only keys and shapes are compared. Make sure that it is that folder's "
            f"single-file form. {ADVICE[Kind.DIFFUSERS_UNET]}"
        )
        print(visible(note), file=sys.stderr)
    elif (found := file_hash(base)) != expected:
        raise WeightsError(
            f"{bundle}: was trained on a base model with SHA-256 {expected}; {base} has "
            f"{found}. Give the checkpoint it was trained on."
        )


if __name__ == "__main__":
    sys.exit(main())
