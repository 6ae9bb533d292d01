import numpy as np
import pytest

from engine.audit.next_images import choose_next, uncertainty
from tests.commands.scene import refusal, succeed
from tests.engine.audit.small_table import FLAGS, read_rows, write_cells, write_table

NAN = float("nan")


def test_uncertainty_is_the_entropy_of_unknown_labels_in_bits():
    probabilities = np.array([[0.5, 0.25, NAN], [0.5, 0.5, NAN], [1.0, 0.9, NAN]])
    codes = np.array([[-1, -1, -1], [1, 0, -1], [-1, 0, 0]], dtype=np.int8)
    quarter = -0.25 * np.log2(0.25) - 0.75 * np.log2(0.75)
    np.testing.assert_allclose(uncertainty(probabilities, codes), [1 + quarter, 0, 0], atol=1e-9)


def slow_choice(values, vectors, units, count):
    chosen, waiting = [], []
    while len(chosen) < min(count, sum(value > 0 for value in values)):
        left = [row for row in range(len(values)) if values[row] > 0 and row not in chosen]
        turn = [row for row in left if units[row] not in waiting]
        if not turn:
            waiting, turn = [], left
        near = {row: min([1.0, *(1 - float(vectors[row] @ vectors[other]) for other in chosen)]) for row in turn}
        best = max(turn, key=lambda row: values[row] * max(near[row], 1e-6))
        chosen.append(best)
        waiting.append(units[best])
    return chosen


@pytest.mark.parametrize("count", [1, 7, 40])
def test_uncertain_images_that_differ_come_first_and_units_in_turn(count):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((30, 4))
    vectors = (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32)
    values, units = rng.random(30), np.arange(30) // 4
    values[[3, 11]] = 0
    found = list(choose_next(values, vectors, units, count))
    assert [one.row for one in found] == slow_choice(values, vectors, units, count)
    assert [one.uncertainty for one in found] == [values[one.row] for one in found]


def test_images_of_one_patient_wait_for_those_of_others(tmp_path):
    truth, _ = write_table(tmp_path)
    given = truth.copy()
    given[60:80] = -1
    ids = [f"{row:03}.jpg" for row in range(120)]
    write_cells(tmp_path / "labels.csv", ids, given, group=[f"p{row // 4}" for row in range(120)])
    words = ("audit.py", *FLAGS, "--group_column", "patient", "--duplicates", "0.9999", "--output", "out")
    said = succeed(tmp_path, *words, "--next", "7")
    assert "written: out/next.csv, 7 images" in said
    rows = read_rows(tmp_path / "out" / "next.csv")
    assert [row["rank"] for row in rows] == list("1234567")
    patients = [int(row["image"][:3]) // 4 for row in rows]
    assert sorted(patients[:5]) == list(range(15, 20))
    assert {row["unknown_labels"] for row in rows} == {"4"}
    assert all(len(row["most_uncertain"].split("; ")) == 3 for row in rows)
    assert not (tmp_path / "out" / "audit.csv").exists()
    write_cells(tmp_path / "labels.csv", ids, truth)
    assert "all labels of the 120 images are known" in refusal(
        tmp_path, "audit.py", *FLAGS, "--duplicates", "0.9999", "--next", "3"
    )
