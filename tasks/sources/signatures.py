"""Name the format of a file that is not read, by its first bytes, and how to make it readable."""

from __future__ import annotations

import re
import tarfile

_UNPACK = "unpack it first"
_CONVERT = "write its rows as parquet, CSV or JSON lines"
_SHEET = "save its sheet as CSV"
EXCEL = ("an Excel workbook", _SHEET)
TAR = ("a tar archive", _UNPACK)

_SIGNS = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Office document, such as an Excel workbook", _SHEET),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", _UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", _UNPACK),
    b"\x1f\x9d": ("packed with compress (.Z)", _UNPACK),
    b"\x04\x22\x4d\x18": ("packed with LZ4", _UNPACK),
    b"\xff\x06\x00\x00sNaPpY": ("packed with Snappy", _UNPACK),
    b"\x5d\x00\x00": ("packed with LZMA", _UNPACK),
    b"\x89LZO": ("packed with LZO", _UNPACK),
    b"ORC": ("an ORC file", _CONVERT),
    b"Obj\x01": ("an Avro file", _CONVERT),
    b"ARROW1": ("an Arrow or Feather file", _CONVERT),
    b"\xff\xff\xff\xff": ("an Arrow stream", _CONVERT),
    b"SEQ\x06": ("a Hadoop sequence file", _CONVERT),
    b"SQLite format 3\x00": ("an SQLite database", _CONVERT),
    b"\x89HDF\r\n": ("an HDF5 file", _CONVERT),
    b"%PDF": ("a PDF document", _CONVERT),
}

# What is found in the place of a file, whatever its name.
_STAND_INS = {
    r"version https://git-lfs\.github\.com/spec/": (
        "a Git LFS pointer, not the file that it stands for",
        "fetch the file with `git lfs pull`, or download it again",
    ),
    r"(?i)<!doctype html|<html": ("an HTML page, such as a server's message", "download the file again"),
    r"<\?xml|<Error>": ("an XML document", f"download it again if it is a server's message; else {_CONVERT}"),
    r"product/productId: |beer/name: ": ("text with one `name: value` a line, as in SNAP's dumps", _CONVERT),
}


def stand_in(start: bytes) -> tuple[str, str] | None:
    """Return (what it is, fix) of a text that is in the place of a review file; None for all else."""
    text = start[:100].decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    return next((words for sign, words in _STAND_INS.items() if re.match(sign, text)), None)


def recognized(start: bytes) -> tuple[str, str] | None:
    """Return (format, fix) of a file that starts like this, in words; None if it may hold text or parquet."""
    for sign, words in _SIGNS.items():
        if start.startswith(sign) and not (sign == b"ORC" and start[3:4].decode("latin-1").isprintable()):
            return words
    return TAR if is_tar(start) else None


def is_tar(start: bytes) -> bool:
    """Tell whether a tar archive starts like this: a header of 512 bytes with a valid checksum."""
    if len(start) < tarfile.BLOCKSIZE or not start[0]:
        return False
    try:
        tarfile.TarInfo.frombuf(start[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def workbook(members: list[str]) -> tuple[str, str] | None:
    """Return (format, fix) if the members of a zip make it a workbook; None for other zips."""
    if any(name.startswith("xl/workbook.") for name in members):
        return EXCEL
    if "mimetype" in members and "content.xml" in members:
        return "an OpenDocument file", _SHEET
    return None
