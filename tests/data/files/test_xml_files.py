import pytest

from data.files.xml_files import XmlError, decoded_xml, parse_xml

NAMES = {
    "gb2312": "\u7ea2\u8272",
    "GBK": "\u7d05\u8272 \u9555",
    "gb18030": "\u7ea2 \U00020000",
    "Shift_JIS": "\u732b\u3068\u72ac",
    "euc-jp": "\u732b",
    "iso-2022-jp": "\u72ac",
    "big5": "\u7d05\u8272",
    "euc-kr": "\uace0\uc591\uc774",
    "windows-31j": "\u2460\u732b",
    "cp936": "\u7ea2",
    "koi8-r": "\u043a\u043e\u0448\u043a\u0430",
    "windows-1251": "\u043a\u043e\u0448\u043a\u0430",
    "iso-8859-15": "\u20ac caf\u00e9",
    "utf-16": "\u7ea2 caf\u00e9",
    "utf-32": "\u7ea2 caf\u00e9",
    "utf-8": "\u7ea2 caf\u00e9",
}


def document(name, encoding, quote='"'):
    return f"<?xml version='1.0' encoding={quote}{encoding}{quote} standalone='yes'?>\n<a><name>{name}</name></a>"


def name_in(content):
    return parse_xml(content).findtext("name")


@pytest.mark.parametrize("encoding, name", NAMES.items(), ids=NAMES)
def test_declared_encodings_are_read(encoding, name):
    codec = "cp932" if encoding == "windows-31j" else encoding
    assert name_in(document(name, encoding).encode(codec)) == name
    assert name_in(document(name, encoding, "'").replace("\n", "\r\n").encode(codec)) == name


@pytest.mark.parametrize(
    "declared, written, name",
    [
        ("gb2312", "gbk", "\u9555"),  # a letter that GB 2312 lacks, as Chinese programs write it
        ("Shift_JIS", "cp932", "\u2460"),
        ("euc-kr", "cp949", "\ub620\ubc29\uac01\ud558"),
        ("UTF-16", "utf-8", "\u7ea2"),  # what .NET declares of a text that is then saved as UTF-8
        ("utf-32", "utf-8", "caf\u00e9"),
        ("us-ascii", "utf-8", "caf\u00e9"),
        ("unicode", "utf-8", "\u7ea2"),
        ("x-nobody-knows", "utf-8", "\u7ea2"),
        ("hex", "utf-8", "\u7ea2"),
        ("x-sjis", "cp932", "\u732b"),
        ("gb2312", "utf-8-sig", "\u7ea2"),  # the byte order mark is right, the declaration left over
        ("utf-8", "utf-16", "\u7ea2"),
        ("utf-8", "utf-16-le", "\u7ea2"),
        ("gbk", "utf-16-be", "\u7ea2"),
    ],
)
def test_declarations_that_are_nearly_right_are_read(declared, written, name):
    assert name_in(document(name, declared).encode(written)) == name


@pytest.mark.parametrize(
    "content, words",
    [
        ("<a><name>\u7ea2</name></a>".encode("gbk"), r"not UTF-8, and it declares no other encoding \(byte 9\); save"),
        (document("caf\u00e9", "gb2312").encode("latin-1"), "not in 'gb2312', as it declares"),
        (document("\u7ea2", "nobody").encode("gbk"), "not in 'nobody', as it declares"),
        (b"<a><b></a>", "mismatched tag.*get this file anew"),
        (document("x", "gbk").encode()[:-5], "get this file anew"),
        (b"", "no element found.*get this file anew"),
        (bytes(range(256)), "save it as UTF-8, or get it anew"),
    ],
)
def test_what_cannot_be_read_is_said(content, words):
    with pytest.raises(XmlError, match=words):
        parse_xml(content)


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "utf-16", "utf-7", "shift_jis"])
def test_document_types_are_refused_in_any_encoding(encoding):
    text = document("x", encoding).replace("<a>", '<!DOCTYPE a [<!ENTITY b "c">]><a>')
    with pytest.raises(XmlError, match="declares a document type"):
        parse_xml(text.encode(encoding))


def test_the_text_has_no_byte_order_mark():
    assert decoded_xml("<a/>".encode("utf-8-sig")) == "<a/>"
    assert decoded_xml("<a/>".encode("utf-16")) == "<a/>"
