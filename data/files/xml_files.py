"""Reading of XML in any encoding that it declares, without document types: no entity can be declared."""

from __future__ import annotations

import codecs
import re
from contextlib import suppress
from xml.etree import ElementTree

_DECLARATION = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._:-]+)[\"']")
_DECLARATION_TEXT = re.compile(r"^\s*<\?xml.*?\?>", re.DOTALL)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# "<?" or "<a" without a byte order mark.
_WIDE = ((b"<\0\0\0", "utf-32-le"), (b"\0\0\0<", "utf-32-be"), (b"<\0", "utf-16-le"), (b"\0<", "utf-16-be"))
# Encodings under whose names programs write a larger one.
_LARGER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "ascii": "utf-8",
}
# Names of Windows that Python does not have.
_WINDOWS = {"windows-31j": "cp932", "windows-936": "gbk", "windows-949": "cp949", "windows-950": "cp950"}


class XmlError(ValueError):
    """A document that cannot be read; the text says why and what to do."""


def parse_xml(content: bytes) -> ElementTree.Element:
    """The outermost element of a document. Raises: XmlError."""
    try:
        try:
            return _parsed(content)
        except _DoctypeError:
            raise
        except (ElementTree.ParseError, ValueError, LookupError):
            # Expat knows no encodings of several bytes, and believes what a document declares: Python's codecs help.
            return _parsed(_DECLARATION_TEXT.sub("", decoded_xml(content)))
    except XmlError:
        raise
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise XmlError(f"{error}; get this file anew") from error


def decoded_xml(content: bytes) -> str:
    """The text of a document, by its byte order mark, the width of its letters or the encoding that it declares.

    Raises: XmlError when it is not in that encoding.
    """
    declared = _DECLARATION.match(content)
    name = _by_first_bytes(content) or (declared[1].decode() if declared else "utf-8")
    try:
        return _decode(content, _known(name, declared is not None))
    except UnicodeError as error:
        at = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
        what = f"in {name[:40]!r}, as it declares" if declared else "UTF-8, and it declares no other encoding"
        raise XmlError(f"its text is not {what} ({at}); save it as UTF-8, or get it anew") from error


def _known(name: str, declared: bool) -> str:
    """Python's name of an encoding; UTF-8 for one that is not known or cannot be it."""
    try:
        name = name.lower().removeprefix("x-")
        known = codecs.lookup(_WINDOWS.get(name, name)).name
        with suppress(UnicodeError):
            b"<".decode(known)  # a codec of bytes, such as hex, is no encoding of a text
    except LookupError:
        return "utf-8"
    return "utf-8" if declared and known.startswith(("utf-16", "utf-32")) else known


def _decode(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError:
        if encoding not in _LARGER:
            raise
        return content.decode(_LARGER[encoding])


def _by_first_bytes(content: bytes) -> str:
    return next((name for start, name in (*_MARKS, *_WIDE) if content.startswith(start)), "")


class _DoctypeError(ValueError):
    pass


class _NoDocumentType(ElementTree.TreeBuilder):
    """Builds the tree of a document and refuses document types, so that no entity can be declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse the document."""
        raise _DoctypeError("it declares a document type")


def _parsed(content: bytes | str) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_NoDocumentType())
    parser.feed(content)
    root: ElementTree.Element = parser.close()
    return root
