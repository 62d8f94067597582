"""Pictures in a tar, by paths that lead into it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from siamese_diffusion.common import tar_members
from siamese_diffusion.common.hashes import file_hash
from siamese_diffusion.common.pictures import pixel_count, read_image, read_mask
from siamese_diffusion.common.tar_members import is_there


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """With a picture, also in a folder, and a link to a file outside."""
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "m.png")
    path = tmp_path / "pairs.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "m.png", "a.mask.png")
        archive.add(tmp_path / "m.png", "sub/b.mask.png")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "m.png"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("broken.png"), io.BytesIO())
    return path


@pytest.mark.parametrize("name", ["a.mask.png", "sub/b.mask.png"])
def test_a_member_is_read_as_a_file(tar: Path, tmp_path: Path, name: str) -> None:
    assert np.array_equal(read_mask(tar / name), np.eye(8, dtype=bool))
    assert np.array_equal(read_image(tar / name), read_image(tmp_path / "m.png"))
    assert pixel_count(tar / name) == 64
    assert file_hash(tar / name) == file_hash(tmp_path / "m.png")
    assert is_there(tar / name)


@pytest.mark.parametrize("name", ["none.png", "link.png", "m.png"])
def test_nothing_else_is(tar: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"pairs.tar/{name}: no such file"):
        read_image(tar / name)
    assert not is_there(tar / name)


def test_what_is_damaged_is_named(tar: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pairs.tar/broken.png: cannot be decoded"):
        read_image(tar / "broken.png")
    (tmp_path / "no.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(ValueError, match=r"no.tar/a.png: .*damaged tar"):
        read_image(tmp_path / "no.tar" / "a.png")


def test_a_tar_that_was_written_again_is_read_again(tar: Path, tmp_path: Path) -> None:
    assert read_mask(tar / "a.mask.png").any()
    black = tmp_path / "black.png"
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(black)
    with tarfile.open(tar, "w") as archive:
        archive.add(black, "a.mask.png")
    assert not read_mask(tar / "a.mask.png").any()


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A member's header with any size, also one that no archive can have."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf())
    block[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"%011o\0" % size
    block[148:156] = b"%06o\0 " % (256 + sum(block[:148]) + sum(block[156:]))
    return bytes(block)


LINK = header("././@LongLink", 5, tarfile.GNUTYPE_LONGNAME) + b"abcd".ljust(512, b"\0")


@pytest.mark.parametrize(
    "content",
    [
        header("empty") + header("back", -512),
        header("empty") + header("far back", -(1 << 40)),
        header("large", 8**11 - 1) + header("behind"),
        LINK * 5000 + header("deep"),
    ],
    ids=["back", "far back", "large", "long names"],
)
def test_made_up_headers_end_in_a_message(tmp_path: Path, content: bytes) -> None:
    """None leads round in a circle: Python's own reader never comes back from the first."""
    (tmp_path / "x.tar").write_bytes(content + bytes(1024))
    with pytest.raises(ValueError, match=r"x.tar/1.png: (cannot be decoded .*damaged tar|no such)"):
        read_image(tmp_path / "x.tar" / "1.png")


def test_any_format_is_read_from_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for suffix in ("png", "jpg", "bmp", "tif", "webp"):
            Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / f"a.{suffix}")
            archive.add(tmp_path / f"a.{suffix}", f"a.{suffix}")
    for suffix in ("png", "jpg", "bmp", "tif", "webp"):
        assert np.array_equal(
            read_image(path / f"a.{suffix}"), read_image(tmp_path / f"a.{suffix}")
        )


def test_a_member_that_no_picture_needs_is_refused(
    tar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tar_members, "LARGEST_MEMBER", 50)
    with pytest.raises(ValueError, match=r"a.mask.png: cannot be decoded .*in a tar"):
        read_image(tar / "a.mask.png")
