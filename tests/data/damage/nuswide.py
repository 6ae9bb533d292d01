"""Damaged tables of NUS-WIDE, and a small right one."""

from data.datasets.nuswide import TABLE, load_nuswide
from data.datasets.source import DatasetSource
from data.files.cache import Cache
from tests.data.damage import Case

HEADER = "filepath,label,split_name"
ROWS = (
    "images/3.jpg,\"['sky', 'sun']\",train",
    "images/1.jpg,['cow'],val",
    "images/2.jpg,[],train",
)


def nuswide_tree(folder, content):
    """`nus_wid_data.csv` in `folder`."""
    data = content if isinstance(content, bytes) else content.encode()
    (folder / TABLE).write_bytes(data)
    return folder


def table(*rows, header=HEADER):
    """The text of a table of the right rows, and others behind them: the first of these is line 5."""
    return "\n".join([header, *ROWS, *rows]) + "\n"


def load(folder, *, need_images=False):
    """The splits of `nuswide_tree`."""
    source = DatasetSource(folder, folder / "lists", 0, Cache(folder / "cache"), need_images)
    return load_nuswide(source)


def damaged(name, content, *words):
    """A case with another content of the table, whose name must be in the message."""

    def make(folder):
        nuswide_tree(folder, content)
        return lambda: load(folder)

    return Case(name, make, (TABLE, *words))


def calling(name, cell):
    """A case whose list of labels is Python source that would make a file."""

    def make(folder):
        marker = folder / "marker"
        text = cell.replace("MARKER", str(marker)).replace('"', '""')
        nuswide_tree(folder, table(f'images/9.jpg,"{text}",train'))

        def refuse():
            try:
                load(folder)
            finally:
                assert not marker.exists()

        return refuse

    return Case(name, make, (TABLE, "line 5"))


def nothing(folder):
    return lambda: load(folder)


def a_folder(folder):
    (folder / TABLE).mkdir()
    return lambda: load(folder)


def no_image_folder(folder):
    lists = folder / "lists"
    lists.mkdir()
    nuswide_tree(lists, table())
    source = DatasetSource(folder / "pictures", lists, 0, Cache(folder / "cache"), True)
    return lambda: load_nuswide(source)


CASES = [
    Case("nothing there", nothing, ("no NUS-WIDE here", TABLE, "formatted_train_images.npy")),
    Case("a folder for a table", a_folder, (TABLE, "cannot be read")),
    Case("no image folder", no_image_folder, ("pictures", "no such folder")),
    damaged("an empty file", b"", "lists no image"),
    damaged("blank lines", b"\n\n , ,\n", "lists no image"),
    damaged("a header alone", HEADER, "lists no image", "'train'"),
    damaged("no test row", "\n".join([HEADER, ROWS[0]]), "'val'"),
    damaged("no training row", "\n".join([HEADER, ROWS[1]]), "'train'"),
    damaged("UTF-16", table().encode("utf-16"), "UTF-8"),
    damaged("Latin-1", table("images/\u00e9.jpg,[],val").encode("latin-1"), "UTF-8"),
    damaged("NUL bytes", table("images/\0.jpg,[],val"), "line 5", "NUL"),
    damaged("a column missing", table(header="filepath,split_name,other"), "line 1", "'label'"),
    damaged("two columns of files", table(header="filepath,path,label"), "line 1", "2 columns", "'filepath'"),
    damaged("a column twice", table(header="path,label,label"), "line 1", "2 columns", "'label'"),
    damaged("five columns without names", "a,b,c,d,e\n1,2,3,4,5\n", "line 1", "5 columns"),
    damaged("two columns without names", "a,b\n1,2\n", "line 1", "2 columns"),
    damaged("a short row", table("images/9.jpg,['sky']"), "line 5", "2 fields"),
    damaged("a list without quotes around it", table("images/9.jpg,['sky', 'sun'],train"), "line 5", "4 fields"),
    damaged("the end torn off", table("images/9.jpg,\"['sky', 'su"), "line 5"),
    damaged("a quote that is never closed", table('images/9.jpg,"' + "x" * 5_000_000), "line"),
    damaged("an unknown class", table("images/9.jpg,['sky'],val", "images/8.jpg,['skies'],val"), "line 6", "'skies'"),
    damaged("a class in capitals", table("images/9.jpg,['Sky'],val"), "line 5", "'Sky'"),
    damaged("two classes in one", table("images/9.jpg,['sky sun'],val"), "line 5", "'sky sun'"),
    damaged("two classes and a separator", table("images/9.jpg,['sky;sun'],val"), "line 5", "'sky;sun'"),
    damaged("an empty class", table("images/9.jpg,[''],val"), "line 5", "''"),
    damaged("no list", table("images/9.jpg,sky,val"), "line 5", "'sky'", "[]"),
    damaged("an empty cell", table("images/9.jpg,,val"), "line 5", "[]"),
    damaged("a missing value", table("images/9.jpg,nan,val"), "line 5", "'nan'"),
    damaged("names without quotes", table("images/9.jpg,[sky],val"), "line 5", "[sky]"),
    damaged("half a quote", table("images/9.jpg,['sky],val"), "line 5", "['sky]"),
    damaged("a list of a list", table("images/9.jpg,[['sky']],val"), "line 5", "[['sky']]"),
    damaged("numbers for names", table('images/9.jpg,"[1, 2]",val'), "line 5", "[1, 2]"),
    damaged("a dictionary", table("images/9.jpg,{'sky': 1},val"), "line 5", "{'sky': 1}"),
    damaged("a comma at the end", table("images/9.jpg,\"['sky',]\",val"), "line 5"),
    damaged("brackets without end", table(f"images/9.jpg,{'[' * 200_000},val"), "line 5"),
    calling("a call for a list", "__import__('pathlib').Path('MARKER').touch()"),
    calling("a call in a list", "[__import__('pathlib').Path('MARKER').touch()]"),
    calling("a call in a name", "['sky' if open('MARKER', 'w') else 'sun']"),
    damaged("another split", table("images/9.jpg,['sky'],test"), "line 5", "'test'"),
    damaged("no split", table("images/9.jpg,['sky'],"), "line 5", "''"),
    damaged("an image twice", table("images/3.jpg,['sky'],train"), "line 5", "image 3 ", "line 2"),
    damaged("an image in both splits", table("images/1.jpg,['sky'],train"), "line 5", "image 1 ", "line 3"),
    damaged("an image under two extensions", table("images/2.png,[],val"), "line 5", "image 2 ", "line 4"),
    damaged("an absolute name", table("/etc/passwd,[],val"), "line 5", "/etc/passwd"),
    damaged("a name that leads out", table("images/../../9.jpg,[],val"), "line 5", ".."),
    damaged("a name on a drive", table("C:\\9.jpg,[],val"), "line 5"),
    damaged("no name", table(",['sky'],val"), "line 5"),
    damaged("a line break in a name", table('"images/9\n.jpg",[],val'), "line 6", "control"),
    damaged("a surplus field", table("images/9.jpg,[],val,more"), "line 5", "4 fields"),
]
