"""How much of what was found a report lists."""

import numpy as np
import pytest

from data.images.files import FileImages
from engine.inspection import report as room
from engine.inspection.command import inspect_dataset
from engine.inspection.report import report
from tests.engine.inspection.test_command import data, part


@pytest.mark.parametrize("listed", [2, 3, 4, 5])
def test_files_are_listed_up_to_a_number_and_counted_beyond(monkeypatch, tmp_path, listed):
    monkeypatch.setattr(room, "LISTED", listed)
    codes = np.ones((4, 2), dtype=np.int8)
    gone = part(codes, "train", images=FileImages([tmp_path / f"{row}.jpg" for row in range(4)]))
    held = data(parts={"train": gone, "test": part(codes, "test")}, observed=gone.truth)
    images = report(inspect_dataset(held, check_images=False), skip_missing=True)["splits"]["train"]["pictures"]
    assert images["missing"] == 4
    assert len(images["missing_files"]) == min(4, listed)
    assert images["missing_files"][0].endswith("0.jpg")
