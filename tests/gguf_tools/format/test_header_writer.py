"""Heads of GGUF files as they are written, against what the reader finds in them."""

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reellama.gguf_tools.format.header_writer import (
    TensorInfo,
    file_size,
    header_bytes,
    metadata_entries,
    raw_entries,
)
from reellama.gguf_tools.format.reader import read_gguf


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20),
        st.one_of(
            st.integers(0, 2**32 - 1),
            st.floats(width=32, allow_nan=False),
            st.text(max_size=20),
            st.lists(st.text(max_size=5), max_size=3),
        ),
        max_size=5,
    ),
    st.dictionaries(
        st.text("abc.", min_size=1, max_size=30),
        st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple),
        max_size=4,
    ),
)
def test_a_head_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    metadata: dict,
    shapes: dict[str, tuple[int, ...]],
) -> None:
    metadata.pop("general.alignment", None)
    tensors = [
        TensorInfo(name, shape, gguf.GGMLQuantizationType.F16) for name, shape in shapes.items()
    ]
    path = tmp_path_factory.mktemp("head") / "head.gguf"
    top = header_bytes(metadata_entries(metadata), tensors)
    size = file_size(metadata_entries(metadata), tensors)
    path.write_bytes(top + bytes(size - len(top)))
    file = read_gguf(path)
    assert file.metadata == metadata
    assert raw_entries(path) == metadata_entries(metadata)
    assert {t.name: t.n_bytes for t in file.tensors.values()} == {
        t.name: t.n_bytes for t in tensors
    }
