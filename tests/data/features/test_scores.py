"""Files of prior scores: read in every form, and refused in one line."""

import hashlib
import json
import mmap
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from data.features.scores import read_scores
from utils.checks import UserError

IDS, CLASSES = ("a/1.jpg", "b/2.jpg", "3"), ("cat", "dog", "sofa", "car")
SCORES = np.random.default_rng(0).random((3, 4)).astype(np.float32)
TILES = np.random.default_rng(1).random((3, 2, 4)).astype(np.float32)


def npz(path, save=np.savez, **changes):
    held = {"scores": SCORES, "ids": np.array(IDS), "classes": np.array(CLASSES), "kind": "probability", **changes}
    save(path, **{name: value for name, value in held.items() if value is not None})
    return path


def tensors(path, **changes):
    held = {"scores": SCORES, "ids": IDS, "classes": CLASSES, "kind": ["probability"], **changes}
    content = {name: torch.as_tensor(value) for name, value in held.items() if name in ("scores", "tile_scores")}
    texts = {name: json.dumps(list(held[name])) for name in ("ids", "classes", "kind") if held[name] is not None}
    safetensors.torch.save_file(content, path, texts)
    return path


FORMS = {".npz": npz, ".safetensors": tensors}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_each_form_is_read_and_stays_in_the_file(tmp_path, form, dtype):
    path = FORMS[form](tmp_path / f"x{form}", scores=SCORES.astype(dtype), tile_scores=TILES.astype(dtype))
    file = read_scores(path)
    file.require_numbers()
    np.testing.assert_array_equal(file.values, SCORES.astype(dtype))
    np.testing.assert_array_equal(file.tiles, TILES.astype(dtype))
    assert (file.ids, file.classes, file.kind) == (IDS, CLASSES, "probability")
    assert file.content_hash() == hashlib.sha256(path.read_bytes()).hexdigest()
    base = file.values
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base.obj if isinstance(base, memoryview) else base, mmap.mmap)
    assert not file.values.flags.writeable


def test_bfloat16_compressed_files_and_the_word_softmax_are_read(tmp_path):
    half = read_scores(tensors(tmp_path / "x.safetensors", scores=torch.tensor(SCORES).bfloat16(), kind=["softmax"]))
    half.require_numbers()
    assert half.values.dtype == np.uint16
    assert half.kind == "probability"
    packed = read_scores(npz(tmp_path / "x.npz", np.savez_compressed, kind=np.array(["logit"])))
    np.testing.assert_array_equal(packed.values, SCORES)
    assert (packed.kind, packed.tiles) == ("logit", None)


def test_columns_are_found_by_name_and_more_of_them_are_fine(tmp_path):
    file = read_scores(npz(tmp_path / "x.npz"))
    np.testing.assert_array_equal(file.columns(("sofa", "cat")), [2, 0])
    with pytest.raises(UserError, match=r"x.npz: has no scores of 1 of 2 classes .*\(Dog\); it has 'dog': write names"):
        file.columns(("cat", "Dog"))
    with pytest.raises(UserError, match=r"has no scores of 4 of 4 classes .*\(q1, q2, q3, \.\.\.\); add its scores"):
        file.columns(("q1", "q2", "q3", "q4"))


def with_value(value):
    scores = SCORES.copy()
    scores[1, 2] = value
    return scores


@pytest.mark.parametrize(
    "kind, value, said",
    [
        ("probability", np.nan, "between 0 and 1"),
        ("probability", 1.01, "between 0 and 1"),
        ("probability", -0.01, "between 0 and 1"),
        ("cosine", -1.02, "between -1 and 1"),
        ("cosine", np.inf, "between -1 and 1"),
        ("logit", np.inf, "finite"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_numbers_that_their_kind_cannot_have_are_named(tmp_path, form, kind, value, said):
    file = read_scores(FORMS[form](tmp_path / f"x{form}", scores=with_value(value), kind=[kind]))
    with pytest.raises(
        UserError, match=rf"scores of 'b/2.jpg' \(row 1\) are not all {said}, as those of kind '{kind}'"
    ):
        file.require_numbers()


def test_numbers_at_the_limits_are_right(tmp_path):
    for kind, value in (("probability", 0), ("probability", 1), ("cosine", -1), ("cosine", 1.005), ("logit", -1e30)):
        read_scores(npz(tmp_path / "x.npz", scores=with_value(value), kind=kind)).require_numbers()


def test_wrong_tiles_are_named(tmp_path):
    tiles = np.where(np.arange(2)[:, None] == 1, 2, TILES)
    with pytest.raises(UserError, match=r"the tile_scores of 'a/1.jpg' \(row 0\)"):
        read_scores(npz(tmp_path / "x.npz", tile_scores=tiles)).require_numbers()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"scores": None}, "has no arrays `scores` .there is ids, classes, kind."),
        ({"ids": None}, "has no arrays `ids`"),
        ({"classes": None}, "has no arrays `classes`"),
        ({"kind": None}, "has no arrays `kind`"),
        ({"kind": "odds"}, "`kind` is 'odds'; must be one of probability, cosine, logit"),
        ({"kind": ["logit", "cosine"]}, "`kind` is 'logit, cosine'"),
        ({"kind": 0.5}, "`kind` is float64"),
        ({"scores": SCORES.astype(np.int64)}, "scores are int64"),
        ({"scores": SCORES[0]}, "scores have the shape 4; must be M x K"),
        ({"scores": SCORES[:0]}, "scores have the shape 0 x 4"),
        ({"tile_scores": TILES[:, :, :3]}, "tile_scores have the shape 3 x 2 x 3; must be 3 x T x 4"),
        ({"tile_scores": TILES[:2]}, "tile_scores have the shape 2 x 2 x 4"),
        ({"ids": np.array(IDS[:2])}, "2 ids for 3 rows of scores"),
        ({"ids": np.array(["a", "b", "a"])}, "'a' stands there twice"),
        ({"classes": np.array(CLASSES[:3])}, "3 classes for 4 columns"),
        ({"classes": np.array(["cat", "dog", "cat", "car"])}, "'cat' stands there twice; keep one column"),
        ({"classes": np.array([1.5, 2, 3, 4])}, "`classes` is float64"),
    ],
)
def test_files_that_are_wrong_are_refused_in_one_line(tmp_path, changes, said):
    with pytest.raises(UserError, match=said) as error:
        read_scores(npz(tmp_path / "x.npz", **changes))
    assert "\n" not in str(error.value)


def test_nothing_in_a_file_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "run"), "w"))

    for name in ("scores", "ids", "classes", "kind"):
        with pytest.raises(UserError, match="pickled Python objects"):
            read_scores(npz(tmp_path / "x.npz", **{name: np.array([Trap()], dtype=object)}))
    (tmp_path / "y.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match=r"damaged, or no .npz"):
        read_scores(tmp_path / "y.npz")
    assert not (tmp_path / "run").exists()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"x.npy: prior scores are read from .npz, .safetensors"):
        read_scores(tmp_path / "x.npy")
    for name in ("no.npz", "no.safetensors"):
        with pytest.raises(UserError, match=name):
            read_scores(tmp_path / name)
    with pytest.raises(UserError, match="has no `classes` in its metadata"):
        read_scores(tensors(tmp_path / "x.safetensors", classes=None))
    safetensors.torch.save_file({"tile_scores": torch.tensor(TILES)}, tmp_path / "z.safetensors")
    with pytest.raises(UserError, match=r"has no tensor `scores` .there is tile_scores"):
        read_scores(tmp_path / "z.safetensors")
    damaged = bytearray(npz(tmp_path / "d.npz").read_bytes())
    damaged[damaged.index(SCORES.tobytes()) + 5] ^= 1
    (tmp_path / "d.npz").write_bytes(damaged)
    with pytest.raises(UserError, match=r"d.npz: damaged"):
        read_scores(tmp_path / "d.npz")
