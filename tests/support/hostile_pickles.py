"""Pickles written by hand: small, and made to run something, to hang, or to fill the memory."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

Write = Callable[[Path], object]

START = b"\x80\x02"
PRIME = (1 << 61) - 1  # Python's hash of a whole number is its rest by this


def as_zip(data: bytes, *more: tuple[str, bytes], comment: bytes = b"") -> Write:
    """A file as `torch.save` writes it, with this pickle in place of its own, and more entries."""

    def write(path: Path) -> None:
        torch.save({"a": torch.ones(1)}, path)
        with zipfile.ZipFile(path) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        root = entries[0][0].split("/")[0]
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries:
                archive.writestr(name, data if name.endswith("data.pkl") else content)
            for name, content in more:
                archive.writestr(f"{root}/{name}", content)
            archive.comment = comment

    return write


def as_legacy(data: bytes) -> Write:
    """The same in torch's format before zip: that begins with a magic number and a version."""
    begin = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {}))
    return lambda path: path.write_bytes(begin + data + pickle.dumps([], 2))


def call(name: str, *arguments: Any) -> bytes:
    """A pickle that calls a function of that module and name."""
    return START + f"c{name}\n".encode() + pickle.dumps(arguments, 2)[2:-1] + b"R."


def tuples_in_tuples(depth: int = 60) -> bytes:
    """{t: 1} with t a pair of pairs of pairs ...: hashing it takes 2 ** depth steps."""
    pair = b"h\x00\x86q\x00"  # (t, t), called t
    return START + b"}K\x01\x85q\x00" + pair * depth + b"K\x01s."


def wide_tuples(depth: int = 5, width: int = 200) -> bytes:
    """The same with many in each."""
    level = b"(" + b"h\x00" * width + b"tq\x00"
    return START + b"}K\x01\x85q\x00" + level * depth + b"K\x01s."


def equal_hashes(count: int = 1000) -> bytes:
    """A dictionary of whole numbers whose hashes are equal: it takes the square of their count."""
    numbers = (
        b"\x8a\x0a" + (number * PRIME).to_bytes(10, "little") for number in range(256, 256 + count)
    )
    return START + b"}(" + b"".join(number + b"N" for number in numbers) + b"u."


def stack_global(module: str, name: str) -> bytes:
    """The later way to name a function."""
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + texts + b"\x93."


CODE = {
    "os system": call("posix\nsystem", "touch ran"),
    "nt system": call("nt\nsystem", "touch ran"),
    "eval": call("builtins\neval", "open('ran', 'w')"),
    "eval of Python 2": call("__builtin__\neval", "open('ran', 'w')"),
    "getattr": call("builtins\ngetattr", "a", "b"),
    "Popen": call("subprocess\nPopen", ["touch", "ran"]),
    "runpy": call("runpy\nrun_path", "ran"),
    "import": call("importlib\nimport_module", "antigravity"),
    "browser": call("webbrowser\nopen", "http://127.0.0.1"),
    "hub": call("torch.hub\nload", "a/b", "c"),
    "extension": call("torch.utils.cpp_extension\nload_inline", "a"),
    "loads": call("pickle\nloads", b"x"),
    "numpy": call("numpy.core.multiarray\n_reconstruct", 1),
    "numpy load": call("numpy\nload", "ran"),
    "codecs": call("_codecs\nencode", "a" * 1000, "punycode"),
    "counter": call("collections\nCounter", [1]),
    "set": call("builtins\nset", [1]),
    "bytearray": call("builtins\nbytearray", 1 << 33),
    "complex": call("builtins\ncomplex", 1, 2),
    "of this package": call("siamese_diffusion.common.files\nreplacing", "ran"),
    "a dotted name": call("torch\nos.system", "touch ran"),
    "a name with escapes": call("\x1b[2J\nx"),
    "a long name": call("n" * 100_000 + "\nx"),
    "instance": START + b"(iposix\nsystem\n.",
    "object": START + b"(cposix\nsystem\nX\x01\x00\x00\x00ao.",
    "stack global": stack_global("posix", "system"),
    "extension register": START + b"\x82\x01.",
    "persistent text": START + b"Pposix\n.",
}
ENDLESS = {
    "tuples": tuples_in_tuples(),
    "wide tuples": wide_tuples(),
    "equal hashes": equal_hashes(),
    "operations": START + b"N0" * 10 + b"]" + b"Na" * 1_100_000 + b".",
    "many names": START + b"}(" + b"".join(
        b"X\x05\x00\x00\x00%05dN" % number for number in range(60_000)
    ) + b"u.",
}  # fmt: skip
DAMAGED = {
    "nothing": b"",
    "no end": START + b"}",
    "no start": b".",
    "empty stack": START + b"0.",
    "unknown memo": START + b"h\x05.",
    "no mark": START + b"t.",
    "text of 4 GB": START + b"X\xff\xff\xff\xffa.",
    "text of 8 EB": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
    "text not UTF-8": START + b"X\x02\x00\x00\x00\xff\xfe.",
    "protocol 200": b"\x80\xc8N.",
    "persistent number": START + b"K\x01Q.",
    "storage of nothing": START + b"X\x07\x00\x00\x00storage\x85Q.",
    "a number": START + b"K\x01.",
    "a text": START + b"X\x01\x00\x00\x00a.",
    "a list that holds itself": START + b"]q\x00h\x00a.",
}
PICKLES: dict[str, Write] = {
    **{f"code {name}.pth": as_zip(data) for name, data in CODE.items()},
    **{f"endless {name}.pth": as_zip(data) for name, data in ENDLESS.items()},
    **{f"damaged {name}.pth": as_zip(data) for name, data in DAMAGED.items()},
    "old code.pth": as_legacy(CODE["os system"]),
    "old code.ckpt": as_legacy(CODE["eval"]),
    "old tuples.bin": as_legacy(ENDLESS["tuples"]),
    "old numbers.pt": as_legacy(ENDLESS["equal hashes"]),
    "code of another entry.pth": as_zip(START + b"}.", ("x.pkl", CODE["os system"])),
    "TorchScript.pth": as_zip(START + b"}.", ("constants.pkl", START + b").")),
    "long comment.pth": as_zip(CODE["Popen"], comment=b"x" * 65535),
}
