"""Tables in every form are read as they are meant, or refused; never read otherwise."""

import pytest

from tests.data.datasets.table.forms import codes_of, random_form
from tests.data.datasets.table.test_columns import read
from utils.checks import UserError


def outcome(folder, seed):
    """ "read" | "refused" | what is wrong."""
    form = random_form(folder, seed)
    try:
        found = codes_of(read(form.path, **form.flags))
    except UserError as refusal:
        return f"refused: {refusal}"
    finally:
        content = form.path.read_bytes()
        form.path.unlink()
    if found == form.truth:
        return "read"
    image = next(image for image in {**form.truth, **found} if found.get(image) != form.truth.get(image))
    return f"seed {seed}, {form.told}: {image}: {found.get(image)}, not {form.truth.get(image)}: {content[:300]!r}"


def check(folder, seeds):
    found = [outcome(folder, seed) for seed in seeds]
    wrong = [one for one in found if not one.startswith(("read", "refused"))]
    refused = [one for one in found if one.startswith("refused")]
    assert wrong == []
    assert len(refused) <= len(found) / 20, refused[:5]


def test_random_truths_come_back_from_every_form(tmp_path):
    pytest.importorskip("openpyxl")
    check(tmp_path, range(200))


@pytest.mark.slow
def test_two_thousand_random_truths_come_back(tmp_path):
    pytest.importorskip("openpyxl")
    check(tmp_path, range(1000, 3000))
