"""Every damaged input ends in one clear line that names file and line: no other exception, no code run, no hang."""

import importlib
import pkgutil

import pytest

from tests.data import damage
from utils.checks import UserError

CASES = [
    pytest.param(case, id=f"{module.name}-{case.name}")
    for module in pkgutil.iter_modules(damage.__path__)
    for case in importlib.import_module(f"{damage.__name__}.{module.name}").CASES
]


@pytest.mark.parametrize("case", CASES)
def test_damaged_input_is_refused_in_one_line_that_names_the_file(case, tmp_path):
    load = case.make(tmp_path)
    with pytest.raises(UserError) as refusal:
        load()
    first = str(refusal.value).splitlines()[0]
    assert len(first) < 600
    for word in case.words:
        assert word in str(refusal.value), (word, str(refusal.value))


def test_there_are_two_hundred_damaged_inputs_with_names_of_their_own():
    names = [case.id for case in CASES]
    assert len(set(names)) == len(names) >= 200
