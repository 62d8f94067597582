"""What hypothesis makes up: headers, metadata, pickles, lists of pairs and TOML files."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import strategies as st

from support.hostile_pickles import START
from support.hostile_weights import DHI, METADATA, OUT, TEXT

# Any character, half of a character, control characters and all.
TEXTS = st.text(st.characters() | st.characters(categories=["Cs", "Cc", "Cf"]), max_size=40)
NUMBERS = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**400, 1e308, float("nan"), float("inf")])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["", "..", "images/1.png", "masks/1.png", "/dev/zero", "a\0b", "\ud800", "n" * 300, "x" * 5000]
)  # fmt: skip


ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "F8_E4M3", "I64", "BOOL"]) | TEXTS,
        "shape": st.lists(st.integers(0, 8) | NUMBERS, max_size=5) | VALUES,
        "data_offsets": st.lists(st.integers(0, 64) | NUMBERS, max_size=3) | VALUES,
    }
)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """A safetensors file whose header is nearly right."""
    entries: dict[str, Any] = {}
    for key in draw(st.lists(st.sampled_from([DHI, TEXT, OUT]) | TEXTS, max_size=5)):
        entries[key] = draw(VALUES | ENTRIES)
    if draw(st.booleans()):
        entries["__metadata__"] = draw(st.dictionaries(TEXTS, TEXTS, max_size=3) | VALUES)
    text = json.dumps(entries).encode()
    cut = draw(st.integers(0, len(text)) | st.just(len(text)))
    length = draw(st.just(cut) | st.integers(0, 2**64 - 1))
    return struct.pack("<Q", length) + text[:cut] + draw(st.binary(max_size=64))


METADATA_VALUES = TEXTS | VALUES.map(json.dumps) | NUMBERS.map(str)
METADATAS = st.dictionaries(st.sampled_from(sorted(METADATA)), METADATA_VALUES, max_size=3)

OPERATIONS = st.sampled_from(
    [bytes([code]) for code in b"()]}tRbuse0N.Q\x85\x86\x87\x88\x89h\x00q\x00"]
    + [b"K\x01", b"h\x00", b"q\x00", b"X\x01\x00\x00\x00a", b"ctorch\nSize\n", b"ctorch\nTensor\n"]
    + [b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n"]
)
PICKLES = st.lists(OPERATIONS | st.binary(max_size=4), max_size=40).map(
    lambda parts: START + b"".join(parts) + b"."
)

LINES = st.one_of(
    st.binary(max_size=80),
    VALUES.map(json.dumps).map(str.encode),
    st.fixed_dictionaries(
        {"source": NAMES | VALUES, "target": NAMES | VALUES, "prompt": TEXTS | VALUES},
        optional={"group": VALUES},
    ).map(json.dumps).map(str.encode),
)  # fmt: skip
LISTS = st.lists(LINES, max_size=4).map(b"\n".join)


def toml_value(value: Any) -> str:
    """As TOML writes it, as far as it can."""
    if isinstance(value, dict):
        pairs = ", ".join(f"{json.dumps(str(k))} = {toml_value(v)}" for k, v in value.items())
        return f"{{{pairs}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A TOML file of known and other names."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=100))
    names = ["resolution", "batch_size", "num_repeats", "image_dir", "enable_bucket", "flip_aug"]
    names += [
        "max_bucket_reso",
        "seed",
        "optimizer_type",
        "sd_scripts",
        "train_data",
        "output_name",
    ]
    rows = ["[general]", "[[datasets]]", "[[datasets.subsets]]", "[x]", 'image_dir = "images"']
    rows += ['conditioning_data_dir = "masks"', "", "# x"]
    given = st.sampled_from(rows) | st.builds(
        lambda name, value: f"{name} = {toml_value(value)}", st.sampled_from(names), VALUES
    )
    return "\n".join(draw(st.lists(given, max_size=8))).encode("utf-8", "surrogatepass")
