"""Changes of bytes and of text, as disks, editors, spreadsheets and other people's programs make them."""

import random
import re
from collections.abc import Callable

NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "-0",
    "+1",
    "01",
    "1.0",
    "0.5",
    "1e3",
    "1e999",
    "-1e999",
    "nan",
    "NaN",
    "inf",
    "-Infinity",
    "2147483648",
    "4294967296",
    "-9223372036854775809",
    "18446744073709551616",
    "1_000",
    "0x10",
    "1,5",
    "1.2.3",
    "٣",
    "²",
    "½",
    "Ⅳ",
    "true",
    "null",
    "None",
    "1e-400",
    " 7 ",
    "",
    "9" * 400,
    "0." + "3" * 300,
)
"""Texts that stand where a number is expected."""

TEXTS = (
    "",
    " ",
    "\t",
    "nan",
    "None",
    "-1",
    "a" * 300,
    "b" * 5000,
    "../../../../etc/passwd",
    "/etc/passwd",
    "C:\\x.jpg",
    "..",
    ".",
    "a/b/c",
    "a\\b",
    "a;b",
    "a,b",
    "a|b",
    '"',
    "''",
    "`id`",
    "$HOME",
    "%s %d {0} {x}",
    "=1+1",
    "@SUM(A1)",
    "<b>&amp;</b>",
    "&lol;",
    "\0",
    "a\0b",
    "\x1b[31mred",
    "\a",
    "\x85\u2028\u2029",
    "\u202eright",
    "\ufeff",
    "\ufffe",
    "café",
    "cafe\u0301",
    "猫",
    "🐈",
    "\ud800",
    "a\udcffb",
    "line\nbreak",
    "line\rreturn",
    "İ",
    "ß",
)
"""Texts that stand where a name, a path or a cell is expected."""

_TOKEN = re.compile(r"[^\s,;:<>\"'\[\]{}()=/|]+")
_NUMBER = re.compile(r"[-+]?\d[\d.eE+-]*")
_ENCODINGS = ("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "latin-1", "cp1252", "cp037", "gb2312", "utf-7")
_LINE_ENDS = ("\r\n", "\r", "\n\n", "\0", "\x85", "\u2028", "")

Change = Callable[[bytes, random.Random], bytes]


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, ranges lost, doubled, moved or overwritten, the end cut off."""
    return rng.choice((_flip, _flip, _overwrite, _cut, _lose, _double, _insert, _exchange, _replace_all))(data, rng)


def change_text(data: bytes, rng: random.Random) -> bytes:
    """A number, word or line replaced, lost, doubled or moved; another encoding; other line ends."""
    text = data.decode("utf-8", "surrogateescape")
    changed = rng.choice((_number, _number, _word, _word, _word, _lines, _lines, _line_ends, _encoding))(text, rng)
    return changed if isinstance(changed, bytes) else as_bytes(changed)


def as_bytes(text: str) -> bytes:
    """UTF-8, in which half characters stand as they are (which no program should write, and some do)."""
    return text.encode("utf-8", "surrogatepass")


def _span(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    longest = rng.choice((1, 4, 16, 256, len(data) + 1))
    return start, min(len(data), start + rng.randint(0, longest))


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 8)) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    fill = rng.choice((b"\0", b"\xff", b" ", None))
    return data[:start] + (rng.randbytes(end - start) if fill is None else fill * (end - start)) + data[end:]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _lose(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:start] + data[end:]


def _double(data: bytes, rng: random.Random) -> bytes:
    start, end = _span(data, rng)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[end:]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    what = rng.choice(
        (b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b"\x1a", rng.randbytes(rng.randint(1, 64)))
    )
    return data[:at] + what + data[at:]


def _exchange(data: bytes, rng: random.Random) -> bytes:
    (a, b), (c, d) = sorted((_span(data, rng), _span(data, rng)))
    b = min(b, c)
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _replace_all(data: bytes, rng: random.Random) -> bytes:
    others = (
        b"",
        b"\n",
        b"<!DOCTYPE html><html>404</html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"PK\3\4",
    )
    return rng.choice((*others, b"\x80\x04N.", b"\0" * len(data), rng.randbytes(min(len(data), 4096))))


def _put(pattern: re.Pattern[str], text: str, rng: random.Random, choices: tuple[str, ...]) -> str:
    found = list(pattern.finditer(text))
    if not found:
        return text + rng.choice(choices)
    match = rng.choice(found)
    return text[: match.start()] + rng.choice(choices) + text[match.end() :]


def _number(text: str, rng: random.Random) -> str:
    return _put(_NUMBER, text, rng, NUMBERS)


def _word(text: str, rng: random.Random) -> str:
    return _put(_TOKEN, text, rng, TEXTS)


def _lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True) or [""]
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(7):
        case 0:
            del lines[at]
        case 1:
            lines.insert(other, lines[at])
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines[at] = lines[at].rstrip("\r\n")
        case 4:
            lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)] + "\n"
        case 5:
            lines.insert(at, rng.choice(("\n", "#\n", "# comment\n", " \t\n", ",\n", ",,,,,,,,\n", '"\n')))
        case _:
            rng.shuffle(lines)
    return "".join(lines)


def _line_ends(text: str, rng: random.Random) -> str:
    return text.replace("\n", rng.choice(_LINE_ENDS))


def _encoding(text: str, rng: random.Random) -> bytes:
    return _put(_TOKEN, text, rng, ("café", "naïve", "猫")).encode(rng.choice(_ENCODINGS), "replace")
