"""How items are shared out to train, val and test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from siamese_diffusion.training.prepare.items import Item, PrepareError
from siamese_diffusion.training.prepare.splits import join_copies, split_by_group


def items(sizes: dict[str, int]) -> list[Item]:
    return [
        Item(f"{group}{number}", Path("image"), (Path("mask"),), "", group)
        for group, size in sizes.items()
        for number in range(size)
    ]


def counts(sizes: dict[str, int]) -> Counter[str | None]:
    return Counter(item.split for item in split_by_group(items(sizes)))


def test_a_tenth_each_where_every_group_is_one_pair() -> None:
    found = counts({f"g{number}": 1 for number in range(250)})
    assert found == {"train": 200, "val": 25, "test": 25}


def test_a_group_that_is_nearly_everything_is_trained_on() -> None:
    found = split_by_group(items({"most": 80, "a": 1, "b": 1, "c": 1}))
    assert {item.split for item in found if item.group == "most"} == {"train"}
    assert {item.split for item in found} == {"train", "val", "test"}


@pytest.mark.parametrize("sizes", [{"a": 5, "b": 5, "c": 5}, {"a": 100, "b": 50, "c": 1}])
def test_three_groups_are_enough(sizes: dict[str, int]) -> None:
    found = split_by_group(items(sizes))
    assert len({(item.group, item.split) for item in found}) == 3
    assert {item.split for item in found} == {"train", "val", "test"}


def test_fewer_than_three_groups_are_refused() -> None:
    with pytest.raises(PrepareError, match="10 pairs in 2 groups"):
        split_by_group(items({"a": 5, "b": 5}))


def test_copies_join_their_groups_also_through_a_third(tmp_path: Path) -> None:
    contents = {"a1": b"x", "b1": b"x", "b2": b"y", "c1": b"y", "d1": b"z"}
    made = []
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        made.append(Item(name, path, (path,), "", group=name[0]))
    assert [item.group for item in join_copies(made)] == ["a", "a", "a", "a", "d"]
