"""OpenImages: lists of classes and tables of verified labels that were cut, edited or swapped."""

from collections.abc import Callable
from pathlib import Path

from data.datasets.openimages import load_openimages
from data.datasets.source import DatasetSource
from data.files.cache import Cache
from tests.data.damage import Case

HEADER = b"ImageID,Source,LabelName,Confidence\n"
FILES = {
    "classes-trainable.txt": b"/m/1\n/m/2\n",
    "class-descriptions.csv": b'/m/1,"Cat"\n/m/2,"Dog, or so"\n',
    "train/annotations-human.csv": HEADER + b"a1,verification,/m/1,1\na2,verification,/m/2,0\n",
    "test/annotations-human.csv": HEADER + b"b1,verification,/m/1,1\n",
}
TRAIN, TEST, LABELS, NAMES = (
    "train/annotations-human.csv",
    "test/annotations-human.csv",
    "classes-trainable.txt",
    "class-descriptions.csv",
)


def case(name: str, file: str, content: bytes | None, *words: str) -> Case:
    """A sound dataset in which one file has another content, or is missing."""

    def make(folder: Path) -> Callable[[], object]:
        for one, sound in FILES.items():
            (folder / one).parent.mkdir(exist_ok=True)
            if one != file or content is not None:
                (folder / one).write_bytes(sound if one != file else content)  # type: ignore[arg-type]
        source = DatasetSource(folder, folder, 0, Cache(folder / "cache"), False)
        return lambda: load_openimages(source)

    return Case(name, make, words)


def row(name: str, text: bytes, *words: str) -> Case:
    """A training table whose third line is wrong."""
    good = b"a1,verification,/m/1,1\n"
    return case(name, TRAIN, HEADER + good + text + b"\n" + good, "train", "line 3", *words)


def in_the_place_of_a_file(name: str, file: str) -> Case:
    """A folder where a file should be."""
    sound = case(name, file, None)

    def make(folder: Path) -> Callable[[], object]:
        load = sound.make(folder)
        (folder / file).mkdir()
        return load

    return Case(name, make, sound.words)


CASES = [
    case("no list of classes", LABELS, None, "no OpenImages V3 here", "--path_images"),
    case("list of classes empty", LABELS, b"", "lists no class"),
    case("list of classes blank", LABELS, b"\n \n\n", "lists no class"),
    case("class listed twice", LABELS, b"/m/1\n/m/2\n/m/1\n", "line 3", "/m/1", "line 1"),
    case("class with a separator", LABELS, b"/m/1\n/m/2,Dog\n", "line 2", "/m/2,Dog"),
    case("two classes in a line", LABELS, b"/m/1 /m/2\n", "line 1"),
    case("class in quotes", LABELS, b'/m/1\n"/m/2"\n', "line 2"),
    case("class with a NUL byte", LABELS, b"/m/1\n/m/\x002\n", "line 2"),
    case("class not of ASCII", LABELS, "/m/1\n/m/é\n".encode(), "line 2"),
    case("list of classes in UTF-16", LABELS, "/m/1\n/m/2\n".encode("utf-16"), "UTF-8"),
    case("list of classes is an image", LABELS, b"\xff\xd8\xff\xe0\x00\x10JFIF", "UTF-8"),
    in_the_place_of_a_file("folder for descriptions", NAMES),
    case("no descriptions", NAMES, None, "cannot be read"),
    case("descriptions empty", NAMES, b"", "/m/1", "2 such"),
    case("a class is not described", NAMES, b"/m/1,Cat\n/m/3,Cow\n", "/m/2", "1 such"),
    case("description cut in a quote", NAMES, b'/m/1,Cat\n/m/2,"Do', "line 2"),
    case("description with three fields", NAMES, b"/m/1,Cat\n/m/2,Dog, or so\n", "line 2", "3 fields"),
    case("description without a name", NAMES, b"/m/1,Cat\n/m/2\n", "line 2", "1 fields"),
    case("text behind a quote", NAMES, b'/m/1,Cat\n/m/2,"Dog" or so\n', "line 2"),
    case("two names for a class", NAMES, b"/m/1,Cat\n/m/2,Dog\n/m/1,Cow\n", "line 3", "'Cow'", "'Cat'"),
    case("descriptions in Latin-1", NAMES, "/m/1,Café\n/m/2,Dog\n".encode("latin-1"), "UTF-8"),
    case("descriptions with a NUL byte", NAMES, b"/m/1,Cat\n/m/2,D\x00g\n", "NUL"),
    case("description without an end", NAMES, b'/m/1,"' + b"x" * (5 << 20), "line 1"),
    case("no training table", TRAIN, None, "train", "cannot be read"),
    case("no test table", TEST, None, "test", "cannot be read"),
    in_the_place_of_a_file("folder for a table", TRAIN),
    case("table empty", TRAIN, b"", "train", "is empty"),
    case("table with a header alone", TRAIN, HEADER, "train", "none of its 0 labels"),
    case("header cut", TRAIN, HEADER[:20], "train", "line 1", "LabelName"),
    case("no header", TRAIN, b"a1,verification,/m/1,1\n", "line 1", "ImageID"),
    case("column named twice", TRAIN, b"ImageID,LabelName,LabelName,Confidence\n", "line 1", "LabelName"),
    case("machine's columns", TRAIN, b"ImageID,Source,LabelName\na1,machine,/m/1\n", "line 1", "Confidence"),
    case("table in UTF-16", TRAIN, HEADER.decode().encode("utf-16"), "line 1", "ImageID"),
    case("table with semicolons", TRAIN, HEADER.replace(b",", b";") + b"a1;verification;/m/1;1\n", "line 1"),
    case("table of another list", TRAIN, HEADER + b"a1,verification,/m/9,1\n", "none of its 1 labels"),
    case("line ends of old computers", TRAIN, HEADER[:-1] + b"\ra1,verification,/m/1,1\r", "line 1"),
    case("line without an end", TRAIN, HEADER + b"a" * (17 << 20), "16 MiB"),
    row("row too short", b"a2,verification,/m/2", "4 fields"),
    row("row too long", b"a2,verification,/m/2,1,1", "4 fields"),
    row("row of spaces", b"   ", "4 fields"),
    row("name with a comma", b"a2,verification, by hand,/m/2,1", "4 fields"),
    row("fields in quotes", b'"a2","verification","/m/2","1"', "quotation mark"),
    row("NUL byte", b"a2,verif\x00cation,/m/2,1", "NUL"),
    row("no image", b",verification,/m/2,1", "image id"),
    row("path for an image", b"../../etc/passwd,verification,/m/2,1", "../../etc/passwd", "image id"),
    row("absolute path for an image", b"/etc/passwd,verification,/m/2,1", "image id"),
    row("backslash in an image", b"..\\x,verification,/m/2,1", "image id"),
    row("image with a space", b"a 2,verification,/m/2,1", "'a 2'", "image id"),
    row("image with a suffix", b"a2.jpg,verification,/m/2,1", "'a2.jpg'", "image id"),
    row("image not of ASCII", "é,verification,/m/2,1".encode(), "image id"),
    row("image of a thousand letters", b"a" * 1000 + b",verification,/m/2,1", "image id"),
    row("no label", b"a2,verification,,1", "label such as"),
    row("label with a space", b"a2,verification,/m/2 ,1", "label such as"),
    row("label not of ASCII", b"a2,verification,/m\xff2,1", "label such as"),
    row("no confidence", b"a2,verification,/m/2,", "Confidence"),
    row("machine's confidence", b"a2,machine,/m/2,0.7", "'0.7'", "Confidence"),
    row("confidence of other papers", b"a2,verification,/m/2,-1", "'-1'", "Confidence"),
    row("confidence beyond 1", b"a2,verification,/m/2,10", "'10'", "Confidence"),
    row("confidence without end", b"a2,verification,/m/2," + b"1" * 400, "Confidence"),
    row("confidence is nan", b"a2,verification,/m/2,nan", "'nan'", "Confidence"),
    row("confidence with a space", b"a2,verification,/m/2, 1", "' 1'", "Confidence"),
    row("confidence in words", b"a2,verification,/m/2,True", "Confidence"),
    row("header again", HEADER[:-1], "Confidence"),
    case("image for training and for test", TEST, FILES[TRAIN], "image a1", "train", "2 such"),
    case("cut within a row", TRAIN, FILES[TRAIN][:-12], "train", "line 3", "4 fields"),
    case("cut before the confidence", TRAIN, FILES[TRAIN][:-2], "train", "line 3", "Confidence"),
]
