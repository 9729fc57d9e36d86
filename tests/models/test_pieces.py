"""Files read in pieces: all their bytes, each in its place, however many pieces there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pytest_proofpack.errors import FormatError
from pytest_proofpack.models import pieces
from pytest_proofpack.models.pieces import host_pieces, is_same, read_onto, read_pieces
from pytest_proofpack.models.stored_bytes import bytes_of

CPU = torch.device("cpu")
CONTENT = os.urandom(5000)


@pytest.fixture
def descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(pieces, "PIECE", 64)
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    opened = os.open(file, os.O_RDONLY)
    yield opened
    os.close(opened)


@pytest.mark.parametrize(("start", "end"), [(0, 5000), (17, 4242), (64, 128), (4999, 5000), (7, 7)])
def test_bytes_are_where_they_belong(descriptor: int, start: int, end: int) -> None:
    assert bytes(bytes_of(read_onto(descriptor, start, end, CPU))) == CONTENT[start:end]


def test_what_is_made_of_pieces_comes_in_their_order(descriptor: int) -> None:
    made = read_pieces(descriptor, 3, 300, lambda offset, piece: (offset, bytes(bytes_of(piece))), CPU)
    assert [offset for offset, _ in made] == [0, 64, 128, 192, 256]
    assert b"".join(piece for _, piece in made) == CONTENT[3:300]


def test_a_file_that_ends_before_is_an_error_once_nobody_reads_it_any_more(descriptor: int) -> None:
    used = []
    with pytest.raises(FormatError, match="ends at byte 5000"):
        read_pieces(descriptor, 0, 5300, lambda offset, _piece: used.append(offset), CPU)
    assert sorted(used) == list(range(0, 4992, 64))  # the last of them is not whole


def test_a_place_is_the_same_bit_by_bit() -> None:
    odd = torch.tensor([torch.nan, 0.0]).view(torch.uint8)
    assert is_same(odd, odd.clone())
    assert not is_same(odd, torch.tensor([torch.nan, -0.0]).view(torch.uint8))


def test_a_tensor_is_given_back_whole() -> None:
    data = torch.frombuffer(bytearray(CONTENT), dtype=torch.uint8)
    assert b"".join(bytes(piece) for piece in host_pieces(data)) == CONTENT
