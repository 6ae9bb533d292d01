"""Rates of wrong labels from run to run: one estimates and writes them, the next reads them."""

import csv

import pytest

from tests.commands.scene import SMALL, refusal, result, succeed, tiny_voc

RUN = (
    *("main_BCE.py", "--dataset", "voc07", *SMALL, "--warmup_epoch", "0", "--no-figures", "--seed", "1"),
    *("--loss", "transition", "--labels", "flip", "--rho_neg", "0.2", "--rho_pos", "0.2", "--epochs", "2"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    tiny_voc(folder)
    return folder


def test_a_run_writes_the_rates_that_the_next_run_reads(folder):
    said = succeed(folder, *RUN, "--output", "first")
    assert "noise_rates.csv" in said
    with (folder / "first" / "noise_rates.csv").open(newline="") as file:
        rows = {row.pop("class"): row for row in csv.DictReader(file)}
    told = result(folder / "first")["noise_rates"]
    assert {name: {key: str(value) for key, value in each.items()} for name, each in told.items()} == rows
    assert len(rows) == 20
    succeed(folder, *RUN, "--rates_file", "first/noise_rates.csv", "--output", "second")
    again = result(folder / "second")["noise_rates"]
    assert again == {name: {**each, "origin": "given"} for name, each in told.items()}
    assert not (folder / "second" / "noise_rates.csv").exists()
    line = refusal(folder, *RUN, "--rates_file", "first/noise_rates.csv", "--known_rates", "0.1,0.1", "--output", "no")
    assert "rates come from one of them" in line
