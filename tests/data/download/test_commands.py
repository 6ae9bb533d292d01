from pathlib import Path

from data.download.commands import commands
from data.download.sources import SOURCES

VOC = "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"


def test_commands_of_tar():
    name = "VOCtrainval_11-May-2012.tar"
    assert list(commands(SOURCES["voc12"], Path("my data"), Path("-a"))) == [
        "mkdir -p 'my data' ./-a",
        f"curl -fL --retry 5 -C - -o ./-a/{name} {VOC}",
        f"echo '6cd6e144f989b92b3379bac3b3de84fd  ./-a/{name}' | md5sum -c -",
        f"tar -xf ./-a/{name} -C 'my data' --strip-components=1",
    ]


def test_commands_of_zip():
    lines = list(commands(SOURCES["coco17"], Path("C"), Path("A")))
    assert lines[0] == "mkdir -p C A"
    assert next(commands(SOURCES["coco17"], Path("C"), Path("C"))) == "mkdir -p C"
    assert lines[-1] == "unzip -q -o A/train2017.zip -d C"
    assert [line.split()[0] for line in lines[1:]] == ["curl", "echo", "unzip"] * 3
