"""Fine-tuning on photographs: which runs follow from which, and what the page says of them. No run is trained here."""

from pathlib import Path

from benchmarks.fine_tuned import RATES, REGIMES, TUNING_SEED, Given, Rows, Run, chosen, page, tuning, words


def row(run, held_out, tested):
    return {**run._asdict(), "held out": held_out, "test": {"mAP": tested}}


def rows_of(path, *rows):
    found = Rows(path)
    for each in rows:
        found.add(each)
    return Rows(path)  # read again, as a second session does


def test_all_methods_of_a_regime_have_the_same_settings_but_their_own():
    given = Given(Path("kit"), Path("work"), ("--epochs", "6"))
    lines = [words(Run("one positive", method, "1e-4", 3), given)[1] for method in REGIMES["one positive"][1]]
    assert all("--augment crop" in " ".join(line) and line[-2:] == ["--epochs", "6"] for line in lines)
    assert len({line[line.index("--output") + 1] for line in lines}) == len(lines)


def test_the_tuning_seed_tries_every_rate_for_every_method():
    assert len(tuning()) == len(set(tuning())) == len(RATES) * sum(len(methods) for _, methods in REGIMES.values())
    assert {run.seed for run in tuning()} == {TUNING_SEED}


def test_a_rate_is_chosen_by_what_was_held_out_and_not_by_the_test(tmp_path):
    low, high = (Run("one positive", "AN", rate, TUNING_SEED) for rate in RATES[:2])
    rows = rows_of(tmp_path / "rows", row(low, 70.0, 60.0), row(high, 69.0, 80.0))
    assert rows.rate("one positive", "AN") == RATES[0]
    assert list(chosen(rows, [5, 6])) == [Run("one positive", "AN", RATES[0], seed) for seed in (5, 6)]


def test_gains_are_paired_by_seed_and_what_is_missing_stays_empty(tmp_path):
    rate = RATES[0]
    runs = {
        ("AN", TUNING_SEED): 50.0,
        ("AN", 5): 60.0,
        ("AN", 6): 61.0,
        ("LL-R", TUNING_SEED): 50.0,
        ("LL-R", 6): 63.5,
    }
    made = [row(Run("one positive", method, rate, seed), figure, figure) for (method, seed), figure in runs.items()]
    lines = page(rows_of(tmp_path / "rows", *made), [5, 6]).splitlines()
    assert f"| AN | {rate} | 60.00 | 61.00 | 60.50 |  | {rate}: 50.0 / 50.0 |" in lines
    assert f"| LL-R | {rate} |  | 63.50 | 63.50 | +2.50 | {rate}: 50.0 / 50.0 |" in lines
