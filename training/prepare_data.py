"""Make a public dataset, as it unpacks, into train, val and test pairs to train on.

python training/prepare_data.py kvasir-seg downloads/kvasir-seg data/kvasir-seg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "common"))
    import bootstrap

    __package__ = bootstrap.enter_package(__file__)

from ..common.arguments import USER_ERROR, Parser, say, unexpected
from ..common.text import visible
from .prepare.items import PrepareError
from .prepare.registry import DATASETS, Prepared, prepare
from .prepare.write import count


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 for a folder that is not the dataset, or is incomplete."""
    names = "\n".join(f"  {name:13} {dataset.about}" for name, dataset in DATASETS.items())
    parser = Parser(
        prog="siamese-prepare",
        description=__doc__,
        epilog=f"datasets:\n{names}\nNothing is downloaded. See docs/reproduce.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=DATASETS, metavar="NAME", help="a dataset named below")
    parser.add_argument("folder", type=Path, help="the dataset as it unpacks")
    parser.add_argument("out", type=Path, help="new folder to write to")
    given = parser.parse_args(arguments)
    try:
        prepared = prepare(given.name, given.folder, given.out)
    except PrepareError as error:
        say(error)
        return USER_ERROR
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    except Exception as error:
        return unexpected(error)
    _show(prepared, given.out)
    return 0


def _show(prepared: Prepared, out: Path) -> None:
    for note in prepared.notes:
        print(visible(f"note: {note}"))
    for split, numbers in count(prepared.items).items():
        pairs, groups = numbers["pairs"], numbers["groups"]
        print(visible(f"{out / split / 'prompt.jsonl'}: {pairs} pairs, {groups} groups"))


if __name__ == "__main__":
    sys.exit(main())
