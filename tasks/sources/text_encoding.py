"""Detect the encoding of a text file from its first bytes, and read it as UTF-8.

A byte order mark, and bytes that can only be UTF-8, decide. Any other encoding is guessed by chardet, for `raymill data
inspect` to show and for messages to name; a run reads a file with the encoding of its profile.
"""

from __future__ import annotations

import codecs
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BOM = codecs.BOM_UTF8
_MARKS = (
    (BOM, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SURELY = 3  # characters of several bytes, all valid: no text in another encoding has them by chance
ENOUGH_LINES, ENOUGH_BYTES = 10, 200  # that are not UTF-8: fewer may be stray
ALMOST = 0.85  # of the best guess's confidence: a guess that is as good
LEAST = 0.03
COMMON = "windows-1252"
_SUPERSETS = {"iso-8859-1": COMMON, "iso8859-15": COMMON, "iso-8859-15": COMMON, "iso-8859-9": "windows-1254"}


@dataclass(frozen=True)
class Guess:
    """An encoding, and others that fit the bytes about as well and give other texts."""

    encoding: str
    others: tuple[str, ...] = ()


def marked(start: bytes) -> str | None:
    """Return the encoding that a byte order mark names."""
    return next((encoding for mark, encoding in _MARKS if start.startswith(mark)), None)


def wide_without_mark(start: bytes) -> str | None:
    """Return the UTF-16 that a text without a mark seems to be in, by where its zero bytes are."""
    half = len(start) // 2
    for encoding, zeros in (("utf-16-le", start[1::2]), ("utf-16-be", start[::2])):
        if zeros.count(0) > 0.7 * half and start.count(0) < 1.1 * zeros.count(0):
            return encoding
    return None


def is_wide(encoding: str) -> bool:
    return codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))


def keeps_ascii(encoding: str) -> bool:
    """Whether each byte below 128 is its ASCII character wherever it is: such a file can be cut at line breaks."""
    if codecs.lookup(encoding).name == "utf-8":
        return True
    text = bytes(range(256)).decode(encoding, "replace")
    return len(text) == 256 and text[:128] == bytes(range(128)).decode("ascii")


def is_utf8(start: bytes) -> bool | None:
    """Whether a text is in UTF-8 but for stray bytes; None if all of it is ASCII. The end may be cut."""
    if start.isascii():
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
        return True
    except UnicodeDecodeError:
        text = start.decode("utf-8", "replace")
        wrong = text.count("\ufffd")
        return wrong <= sum(c > "\x7f" for c in text) - wrong


def surely_utf8(start: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return sum(c > "\x7f" for c in text) >= SURELY


def are_many(start: bytes) -> bool:
    """Whether the bytes that are not ASCII are too many to be stray ones."""
    foreign = sum(not line.isascii() for line in start.split(b"\n"))
    return foreign >= ENOUGH_LINES or start.decode("utf-8", "replace").count("\ufffd") >= ENOUGH_BYTES


def encoding_of(start: bytes, given: str) -> tuple[str | None, Guess | None]:
    """Return the encoding to read a text in, where the bytes or the profile decide it, and otherwise a guess.

    `given` is the profile's. What begins like JSON is in UTF-8 unless its bytes say otherwise."""
    if mark := marked(start):
        return mark, None
    if is_wide(given) and start.count(0) > len(start) // 8:
        return given, None
    utf8, default = is_utf8(start), codecs.lookup(given).name == "utf-8"
    if default and utf8 is not False:
        return "utf-8", None
    if not default:
        json = start.lstrip()[:1] in (b"{", b"[") and utf8 is not False
        return ("utf-8" if json or surely_utf8(start) else given), None
    return None, guess(start)


def guess(start: bytes) -> Guess | None:
    """Guess the encoding of a text that is not in UTF-8; None if no encoding fits."""
    import chardet
    from chardet.enums import EncodingEra

    whole = start[: start.rfind(b"\n") + 1] or start
    readable: list[tuple[float, str, str]] = []
    for candidate in chardet.detect_all(whole, encoding_era=EncodingEra.MODERN_WEB | EncodingEra.LEGACY_ISO):
        name, confidence = str(candidate["encoding"] or "").lower(), float(candidate["confidence"] or 0)
        name = _SUPERSETS.get(name, name)
        try:
            text = whole.decode(name)
        except (LookupError, UnicodeDecodeError):
            continue
        if confidence >= LEAST and not re.search(r"[\x80-\x9f]", text) and all(text != t for _, _, t in readable):
            readable.append((confidence, name, text))
    if not readable:
        return None
    (best, encoding, text), *others = readable
    if text == whole.decode(COMMON, "replace"):
        encoding = COMMON
    return Guess(encoding, tuple(name for confidence, name, _ in others if confidence >= ALMOST * best)[:3])


class Utf8(io.RawIOBase):
    """A stream as UTF-8; what is invalid in its encoding becomes U+FFFD."""

    def __init__(self, stream: Any, encoding: str) -> None:
        super().__init__()
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._ready = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        while not self._ready and not self._ended:
            data = self._stream.read(max(len(view), 1 << 12)) or b""
            self._ended = not data
            self._ready = memoryview(self._decoder.decode(data, final=not data).encode("utf-8", "replace"))
        n = min(len(view), len(self._ready))
        view[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n


def as_utf8(stream: Any, encoding: str) -> Any:
    """Return the stream itself where it is in UTF-8."""
    return stream if codecs.lookup(encoding).name == "utf-8" else io.BufferedReader(Utf8(stream, encoding), 1 << 16)
