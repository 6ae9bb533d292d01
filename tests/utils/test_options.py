from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest

from utils.options import Shorthand, as_text, as_words, choices_of, converter, is_paths, kind_of, option, reader


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (int, "010", 10),
        (float, "1e-5", 1e-5),
        (bool, "True", True),
        (bool, "no", False),
        (str, "no", "no"),
        (Path, "a/b", Path("a/b")),
        (Literal["x", "y"], "x", "x"),
        (int | None, "", None),
        (int | None, "3", 3),
        (Literal["x"] | None, "", None),
        (tuple[Path, ...] | None, "", None),
        (tuple[Path, ...], "a, b.csv", (Path("a, b.csv"),)),
        (tuple[Path, ...] | None, "a b.csv\0c,d", (Path("a b.csv"), Path("c,d"))),
        (tuple[Path, ...], "~/x\0y", (Path.home() / "x", Path("y"))),
        (float | Literal["first"] | None, "first", "first"),
        (float | Literal["first"] | None, "2.5", 2.5),
        (float | Literal["first"] | None, "", None),
    ],
)
def test_text_becomes_the_annotated_type(kind, text, value):
    convert, _ = converter(kind)
    assert convert(text) == value


UNFIT = [(int, "1.0"), (float, "nan"), (float, "x"), (bool, "2"), (Literal["x"], "z"), (str, "")]


@pytest.mark.parametrize("kind, text", UNFIT)
def test_text_that_does_not_fit_is_a_value_error_with_a_reason(kind, text):
    convert, _ = converter(kind)
    with pytest.raises(ValueError, match="must"):
        convert(text)


REASONS = [
    (int, "0x10", "must be a whole number"),
    (int | None, "x", "must be a whole number"),
    (float, "one", "must be a number"),
    (float, "nan", "must be a finite number"),
    (float, "inf", "must be a finite number"),
    (float, "-inf", "must be a finite number"),
    (bool, "", "must be True or False"),
    (bool, "maybe", "must be True or False"),
    (int | Literal["all", "none"], "al", "must be a whole number, or all or none"),
    (float | Literal["first"] | None, "nan", "must be a finite number, or first"),
    (str, "", "must not be empty"),
    (Path, "", "must not be empty"),
    (tuple[Path, ...], "a\0", "must not be empty"),
    (tuple[Literal["left", "right"], ...], "left,wrong", "must be one of left, right"),
    (Literal["left", "right"], "rigth", "must be one of left, right (did you mean right?)"),
]


@pytest.mark.parametrize("kind, text, reason", REASONS)
def test_the_reason_says_what_a_text_must_be(kind, text, reason):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the words are compared as a whole
        converter(kind)[0](text)
    assert str(error.value) == reason


@pytest.mark.parametrize("word, value", [("true", True), ("YES", True), ("1", True), ("False", False), ("0", False)])
def test_yes_and_no_have_several_words(word, value):
    assert converter(bool)[0](word) is value


def test_a_path_of_the_user_begins_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert converter(Path)[0]("~/data") == Path("/somewhere/data")


KINDS = [
    (int, "int"),
    (bool | None, "bool?"),
    (tuple[float, ...], "float..."),
    (tuple[Path, ...] | None, "path...?"),
    (tuple[Literal["x"], ...] | None, "choice...?"),
]
NUMBER_OR_WORD = float | Literal["first"]


@pytest.mark.parametrize("annotation, kind", KINDS)
def test_a_kind_is_a_word_with_a_sign_of_lists_and_one_of_what_may_be_unset(annotation, kind):
    assert kind_of(annotation) == kind
    assert choices_of(annotation) == (("x",) if "choice" in kind else ())


def test_a_number_that_may_be_a_word_has_the_kind_of_the_number():
    assert (kind_of(NUMBER_OR_WORD), choices_of(NUMBER_OR_WORD)) == ("float", ("first",))
    assert (kind_of(NUMBER_OR_WORD | None), choices_of(NUMBER_OR_WORD | None)) == ("float?", ("first",))


def test_a_type_that_no_flag_has_has_no_kind():
    with pytest.raises(KeyError):
        kind_of(dict)


def test_choices_come_with_the_annotation():
    assert converter(Literal["x", "y"])[1] == ("x", "y")
    assert converter(int)[1] == ()


def test_an_option_says_everything_once():
    @dataclass(frozen=True)
    class Config:
        rate: float = option(0.5, "share of labels", aliases=("share",))

    (field,) = fields(Config)
    assert Config().rate == 0.5
    assert field.metadata == {
        "help": "share of labels",
        "aliases": ("share",),
        "choices": (),
        "synonyms": {},
        "shorthands": {},
        "common": False,
        "strict": False,
        "implies": {},
    }


def test_what_else_is_said_of_an_option_is_kept():
    both = Shorthand("on or off", "both settings", lambda text: {"rate": text})
    said = {"synonyms": {"half": "0.5"}, "shorthands": {"both": both}, "common": True, "strict": True}
    said["implies"] = {"rate": "1"}
    field = option("a", "which", choices=iter("ab"), **said)
    assert dict(field.metadata) == {"help": "which", "aliases": (), "choices": ("a", "b"), **said}


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (tuple[int, ...], "0,2,-2,-2", (0, 2, -2, -2)),
        (tuple[int, ...], "-2 2", (-2, 2)),
        (tuple[float, ...] | None, "", None),
        (tuple[float, ...] | None, "0.4, 0.8", (0.4, 0.8)),
        (tuple[int, ...], "", ()),
        (tuple[Literal["x", "y"], ...], "y,x", ("y", "x")),
        (tuple[Path, ...], "a b,c\0d", (Path("a b,c"), Path("d"))),
    ],
)
def test_lists_are_written_with_commas_and_read_back(kind, text, value):
    convert, _ = converter(kind)
    assert convert(text) == value
    assert convert(as_text(value)) == value


@pytest.mark.parametrize("value", [None, True, 3, 1e-5, "x", Path("a/b"), (1, -2)])
def test_every_value_has_a_text_that_gives_it_back(value):
    kinds = {type(None): int | None, tuple: tuple[int, ...], type(Path()): Path}
    convert, _ = converter(kinds.get(type(value), type(value)))
    assert convert(as_text(value)) == value
    assert as_text([1, "x"]) == "1,x"


def test_choices_of_a_registry_make_a_choice_of_a_text():
    kind = kind_of(str, ("a", "b"))
    assert kind == "choice"
    with pytest.raises(ValueError, match="must be one of a, b"):
        reader(kind, ("a", "b"))("c")


def test_a_value_in_a_message_stands_as_behind_its_flag():
    assert [as_words(one) for one in (None, (), 3, (1, 2), (Path("a"), Path("b")))] == [
        "None",
        "None",
        "3",
        "1,2",
        "a b",
    ]


def test_a_list_of_paths_holds_one():
    assert is_paths((Path("a"), "b"))
    assert not any(map(is_paths, ((), ("a", "b"), Path("a"), None)))
