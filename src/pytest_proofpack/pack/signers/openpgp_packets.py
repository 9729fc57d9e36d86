"""OpenPGP's packets (RFC 9580, 4 and 6), looked at before gpg is asked: gpg unpacks whatever it is given.

A signature or a key never lies in a compressed packet when an honest program writes it, but gpg would take it from
there, and some hundred bytes can unpack to gigabytes. What is looked at here is what gpg gets: packets, and not their
armor, which two programs may read in two ways.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import dropwhile

_SIGNATURE = 2
_KEY_PACKETS = frozenset({_SIGNATURE, 5, 6, 7, 10, 12, 13, 14, 16, 17, 21, 61})
"""Keys and subkeys, public or secret, user ids and attributes, signatures; marker, trust, padding and comments."""
_FIRST_LINE = re.compile(rb"-----BEGIN PGP ([A-Z ]{1,40})-----[ \t\r]*\n")
_KEY_ARMORS = frozenset({b"PUBLIC KEY BLOCK", b"PRIVATE KEY BLOCK"})
_HEADER = re.compile(rb"[A-Za-z][A-Za-z0-9-]*: ")
_CRC_START, _CRC_POLYNOMIAL = 0xB704CE, 0x1864CFB


def signature_packet(armored: bytes) -> bytes | None:
    """Return the one packet of an armored signature; None if it holds anything but one whole signature packet."""
    blocks = list(_blocks(armored))
    packets = _dearmored(blocks[0][1]) if len(blocks) == 1 and blocks[0][0] == b"SIGNATURE" else None
    return packets if packets is not None and _tags(packets) == [_SIGNATURE] else None


def key_packets(data: bytes) -> bytes | None:
    """Return the packets of a file of keys, armored in one or several blocks or not at all; None if it holds others."""
    if data[:1] >= b"\x80":
        packets: bytes | None = data
    else:
        blocks = [_dearmored(body) for kind, body in _blocks(data) if kind in _KEY_ARMORS]
        packets = b"".join(block or b"" for block in blocks) if all(blocks) else None
    tags = _tags(packets) if packets else None
    return packets if tags and _KEY_PACKETS.issuperset(tags) else None


def _blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind of every armored block, and what stands between its first line and its last."""
    place = 0
    while (begin := data.find(b"-----BEGIN PGP ", place)) >= 0:
        place = begin + 1
        if first := _FIRST_LINE.match(data, begin):
            end = data.find(b"-----END PGP %b-----" % first[1], first.end())
            if end < 0:
                return
            yield first[1], data[first.end() : end]
            place = end


def _dearmored(body: bytes) -> bytes | None:
    """Return what an armored block says; None if it is malformed."""
    lines = [line.strip() for line in body.split(b"\n")]
    lines = [line for line in dropwhile(_HEADER.match, lines) if line]
    checksum = lines.pop() if lines and re.fullmatch(rb"=[A-Za-z0-9+/]{4}", lines[-1]) else None
    try:
        data = base64.b64decode(b"".join(lines), validate=True)
    except binascii.Error:
        return None
    if checksum is not None and base64.b64decode(checksum[1:]) != _crc(data):
        return None
    return data


def _crc(data: bytes) -> bytes:
    """Return the checksum of an armor, which may be left out (RFC 9580, 6.1)."""
    crc = _CRC_START
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = crc << 1 ^ (_CRC_POLYNOMIAL if crc & 0x800000 else 0)
    return crc.to_bytes(3, "big")


def _tags(packets: bytes) -> list[int] | None:
    """Return the kind of every packet; None if one has no definite length, or they do not fill the data exactly."""
    tags, place = [], 0
    while place < len(packets):
        tag, begin, length = _header(packets[place : place + 6])
        if length is None or place + begin + length > len(packets):
            return None
        tags.append(tag)
        place += begin + length
    return tags


def _header(data: bytes) -> tuple[int, int, int | None]:
    """Return the kind of the packet that begins here, the length of its header, and that of its body if it is told."""
    first = data[0]
    if not first & 0x80:
        return 0, 1, None
    if not first & 0x40:  # the older form, which gpg writes for signatures
        width = (1, 2, 4, 0)[first & 3]
        length = data[1 : 1 + width]
        return (first >> 2) & 0xF, 1 + width, int.from_bytes(length, "big") if width and len(length) == width else None
    tag, second = first & 0x3F, data[1] if len(data) > 1 else 224
    if second < 192:
        return tag, 2, second
    if second < 224 and len(data) > 2:
        return tag, 3, ((second - 192) << 8) + data[2] + 192
    return tag, 6, int.from_bytes(data[2:6], "big") if second == 255 and len(data) == 6 else None
