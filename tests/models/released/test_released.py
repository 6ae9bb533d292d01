"""Released checkpoints: recognised by their names, every tensor renamed, the logits of the published networks."""

import re
import zlib

import numpy as np
import pytest
import torch

from models.build import build_model
from models.released import FAMILIES, MisfitError, architecture_of, read_released, recognise
from models.released.contents import HeadOverrides
from tests.golden_files import load, load_json, meta
from tests.models.released import released_files
from tests.models.released.released_files import CLASSES, FILES, NEED_TIMM, save
from utils.checks import UserError
from utils.safe_files import load_tensors


def families():
    return [
        pytest.param(
            name,
            marks=[
                pytest.mark.skipif(name in NEED_TIMM and not timm_there(), reason="needs timm"),
                *([pytest.mark.slow] if name == "vit_csra" else []),  # the largest by far
            ],
        )
        for name in FILES
    ]


def timm_there():
    try:
        import timm  # noqa: F401
    except ImportError:
        return False
    return True


def network(released):
    model = build_model(architecture_of(released.settings), released.num_classes, seed=0, pretrained=False)
    model.load_state_dict(released.weights)
    return model.eval()


def read(made, tmp_path, overrides=None, **how):
    path = tmp_path / "x.pth"
    save(made.content, path, **how)
    return read_released(load_tensors(path), path, overrides)


@torch.no_grad()
def agree(released, made, size=64, rtol=1e-4):
    torch.manual_seed(11)
    images = torch.rand(2, 3, size, size)
    expected = made.logits(images)
    assert expected.std() > 1e-3  # nothing has died on the way
    torch.testing.assert_close(
        network(released)(images).logits, expected, rtol=rtol, atol=rtol * float(expected.abs().max())
    )


@pytest.mark.parametrize("family", families())
def test_a_file_of_each_family_gives_the_logits_of_its_network(tmp_path, family):
    made = FILES[family]()
    released = read(made, tmp_path)
    assert released.family == family
    assert released.num_classes == (14 if family == "vit_csra" else CLASSES)
    agree(released, made, 224 if family == "vit_csra" else 64)


def test_there_is_a_file_of_every_family():
    assert list(FAMILIES.keys() - FILES.keys()) == []


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("family", ["large_loss", "ignore", "ndlp"])
def test_files_of_before_the_zip_format_are_read(tmp_path, family, zipped):
    made = FILES[family]()
    released = read(made, tmp_path, _use_new_zipfile_serialization=zipped)
    assert released.family == family
    assert set(released.weights) == set(network(released).state_dict())


def test_what_never_runs_is_dropped_and_named(tmp_path):
    cones, ndlp = read(FILES["cones"](), tmp_path), read(FILES["ndlp"](), tmp_path)
    assert len(cones.dropped) == 6
    assert all(name.startswith("contrastive_class_selector_") for name in cones.dropped)
    assert ndlp.dropped == ("neck.fc_hidden_1.weight", "neck.fc_hidden_1.bias")
    assert read(FILES["query2label"](), tmp_path).dropped == ("backbone.1.pe",)
    assert read(FILES["bce"](), tmp_path).dropped == ()


@pytest.mark.parametrize("layered", [False, True])
def test_single_positive_networks_before_and_after_linear_init(tmp_path, layered):
    made = released_files.linear_classifier(layered)
    released = read(made, tmp_path)
    assert released.family == "single_positive"
    agree(released, made)


def test_data_parallel_names_lose_their_prefix_in_every_family(tmp_path):
    made = FILES["csra"]()
    wrapped = made._replace(content={f"module.{key}": value for key, value in made.state.items()})
    agree(read(wrapped, tmp_path), made)


@pytest.mark.parametrize("heads, lam", [(1, 0.3), (4, 0.5)])
def test_lam_of_csra_is_given_or_assumed_and_noted(tmp_path, heads, lam):
    made = released_files.csra(heads, lam)
    given = read(made, tmp_path, HeadOverrides(lam=lam, num_heads=heads))
    assert given.notes == ()
    agree(given, made)
    assert "lam is not in the file: 0.1" in read(made, tmp_path).notes[0]
    with pytest.raises(UserError, match=f"--num_heads 6: .* has {heads}"):
        read(made, tmp_path, HeadOverrides(num_heads=6))


def test_boostlu_is_read_from_the_options_or_given_but_never_guessed(tmp_path):
    made = released_files.convolution(None, alpha=3.0)
    with pytest.raises(UserError, match="give --boostlu 5"):
        read(made, tmp_path)
    agree(read(made, tmp_path, HeadOverrides(boostlu=3.0)), made)
    assert read(FILES["boostlu"](), tmp_path).settings["boostlu"] == 5.0
    assert "boostlu" not in read(FILES["ignore"](), tmp_path).settings


@pytest.mark.parametrize("kept", [True, False])
def test_query2label_layers_widths_and_image_size_show_in_the_weights(tmp_path, kept):
    made = released_files.query2label(kept, size=96)
    released = read(made, tmp_path)
    settings = released.settings
    assert (settings["enc_layers"], settings["dec_layers"]) == (1, 2)
    assert (settings["dim_feedforward"], settings["hidden_dim"]) == (64, 512)
    assert settings["keep_input_proj"] is kept
    assert (released.img_size, released.epoch) == (96, 7)
    assert "4, as published" in released.notes[0]
    agree(released, made, size=96)


def test_attention_heads_of_query2label_come_from_options_beside_it(tmp_path):
    made = released_files.query2label()
    options = released_files.Munch(nheads=8)
    beside = read(made._replace(content=(made.state, options)), tmp_path)
    assert (beside.settings["nheads"], beside.notes) == (8, ())
    assert read(made, tmp_path, HeadOverrides(nheads=2)).settings["nheads"] == 2


@pytest.mark.slow
def test_query2label_on_tresnet_is_read_with_positive_scales(tmp_path):
    pytest.importorskip("timm")
    _, state = released_files.published_tresnet("tresnet_l")
    body = {f"backbone.0.body.{key}": value for key, value in state.items() if key.startswith("body.")}
    width = 64
    made = released_files.query2label()
    head = {key: value for key, value in made.state.items() if not key.startswith("backbone.")}
    shrunk = {key: _first(value, width) for key, value in head.items()}
    shrunk["input_proj.weight"] = torch.randn(width, 2432, 1, 1)
    released = read(made._replace(content={"state_dict": {**body, **shrunk}}), tmp_path)
    assert (released.settings["model"], released.settings["hidden_dim"]) == ("tresnet_l", width)
    scales = [value for key, value in released.weights.items() if key.endswith("layer1.0.conv1.1.weight")]
    assert len(scales) == 1
    assert scales[0].min() > 0


def _first(value, width):
    """A tensor of a transformer of width 512, cut to another."""
    sides = [{512: width, 1536: 3 * width}.get(side, side) for side in value.shape]
    return value[tuple(slice(side) for side in sides)].clone()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"backbone.0.body.": "backbone.0.layers."}, "Swin, CvT or TResNet v2"),
        ({"transformer.": "transfomer."}, "no kind that is read here"),
    ],
)
def test_networks_that_are_known_but_not_read_are_refused_by_name(tmp_path, change, words):
    made = FILES["query2label"]()
    (old, new), *_ = change.items()
    state = {key.replace(old, new): value for key, value in made.state.items()}
    with pytest.raises(UserError, match=words):
        read(made._replace(content={"state_dict": state}), tmp_path)


def test_names_of_classes_are_kept_where_the_file_has_them(tmp_path):
    expected = tuple(f"class {n}" for n in range(CLASSES))
    assert read(FILES["distribution_balanced"](), tmp_path).names == expected
    if timm_there():
        assert read(FILES["asl"](), tmp_path).names == expected
    assert read(FILES["bce"](), tmp_path).names == ()


def test_a_linear_layer_without_its_network_is_refused(tmp_path):
    made = released_files.linear_classifier(layered=True)
    alone = {key: value for key, value in made.state.items() if key.startswith("linear")}
    with pytest.raises(UserError, match="without the network that made them"):
        read(made._replace(content=alone), tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(tmp_path, dtype):
    made = FILES["bce"]()
    state = {key: value.to(dtype) if value.is_floating_point() else value for key, value in made.state.items()}
    released = read(made._replace(content=state), tmp_path)
    assert {value.dtype for value in released.weights.values()} == {torch.float32, torch.int64}
    agree(released, made, rtol=1e-5 if dtype == torch.float64 else 0.1)


def test_the_epoch_is_a_whole_number_or_none_is_known(tmp_path):
    state = FILES["bce"]().state
    for beside, epoch in (({"epoch": 7}, 7), ({"epoch": "7"}, 0), ({"epoch": True}, 0), ({}, 0)):
        assert read_released({"state_dict": state, **beside}, tmp_path).epoch == epoch


def test_counters_may_be_averages_or_missing_but_not_of_another_shape(tmp_path):
    state = dict(FILES["bce"]().state)
    state["bn1.num_batches_tracked"] = torch.tensor(3.5)
    del state["layer1.0.bn1.num_batches_tracked"]
    weights = read_released(state, tmp_path).weights
    assert weights["backbone.bn1.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(weights["backbone.layer1.0.bn1.num_batches_tracked"], torch.tensor(0))
    with pytest.raises(MisfitError, match=r"1 of another shape or kind \(backbone\.bn1\.num_batches_tracked \(2,\)"):
        read_released({**state, "bn1.num_batches_tracked": torch.zeros(2)}, tmp_path)


def test_what_is_not_finite_is_refused_unless_it_never_runs(tmp_path):
    state = dict(FILES["cones"]().state)
    dead = next(name for name in state if name.startswith("contrastive_class_selector_"))
    assert dead in read_released({**state, dead: torch.tensor([torch.nan])}, tmp_path).dropped
    with pytest.raises(UserError, match=r"fc_all\.bias holds numbers that are not finite"):
        read_released({**state, "fc_all.bias": torch.full((CLASSES,), torch.nan)}, tmp_path)


def test_names_are_left_out_where_there_is_not_one_for_each_class(tmp_path):
    content = FILES["distribution_balanced"]().content
    for names in (["a"] * (CLASSES - 1), ["a"] * (CLASSES + 1)):
        assert read_released({**content, "meta": {"CLASSES": names}}, tmp_path).names == ()


def test_all_misfits_are_listed_and_the_first_are_named(tmp_path):
    made = FILES["ndlp"]()
    state = dict(made.state)
    gone = [key for key in state if key.startswith("backbone.layer2.0.bn1.") and "num_batches" not in key]
    for key in gone:
        del state[key]
    state["neck.extra.weight"] = torch.zeros(2)
    state["head.fc_cls.bias"] = torch.zeros(3)
    state["backbone.bn1.weight"] = torch.zeros(64, dtype=torch.int64)
    with pytest.raises(MisfitError) as error:
        read(made._replace(content=state), tmp_path)
    assert error.value.missing == gone
    assert error.value.unexpected == ["neck.extra.weight"]
    assert [text.split(" ")[0] for text in error.value.reshaped] == ["backbone.bn1.weight", "head.fc_cls.bias"]
    text = str(error.value)
    assert "\n" not in text
    for words in (
        "4 missing (backbone.layer2.0.bn1.weight, ",
        "1 unexpected (neck.extra.weight)",
        "nothing was loaded",
    ):
        assert words in text


@pytest.mark.parametrize(
    "family, drop", [("cones", "fc_all.bias"), ("csra", "layer4.1.bn2.bias"), ("ndlp", "neck.bn.running_var")]
)
def test_a_missing_tensor_is_named_and_nothing_is_loaded(tmp_path, family, drop):
    made = FILES[family]()
    state = {key: value for key, value in made.state.items() if key != drop}
    with pytest.raises(MisfitError, match=r"1 missing .*nothing was loaded"):
        read(made._replace(content=state), tmp_path)


def zeros(rows):
    """Tensors of the listed shapes that share one memory: selectors of half a billion bytes cost nothing."""
    shared = torch.zeros(max(int(np.prod(shape)) for _, shape, _ in rows))
    counter = torch.zeros((), dtype=torch.int64)
    return {
        key: counter if dtype == "int64" else shared[: int(np.prod(shape))].view(shape) for key, shape, dtype in rows
    }


def listed_models():
    """Name, rows (key, shape, dtype), number of classes, and what is asked of the reading, of every key list."""
    for name, entry in load_json("checkpoint_cones.json")["models"].items():
        yield name, entry["state_dict"], entry["num_classes"], f"resnet{entry['depth']}"
    listed = load_json("checkpoint_large_loss.json")
    rows = [(row["key"], row["shape"], row["dtype"]) for row in listed["state_dict"]]
    yield "large loss", rows, listed["num_classes"], "resnet50"
    listed = load_json("checkpoint_ndlp.json")
    for part in ("", *(name for name, value in listed.items() if isinstance(value, dict) and "changes" in value)):
        changes = listed[part]["changes"] if part else {}
        rows = [(f"module.{k}", changes.get(k, v["shape"]), v["dtype"]) for k, v in listed["keys"].items()]
        classes = next(shape[0] for key, shape, _ in rows if key == "module.head.fc_cls.weight")
        yield f"ndlp {part}", rows, classes, "resnet50"


def test_golden_every_key_list_is_read_with_nothing_missing(tmp_path):
    for name, rows, classes, model in listed_models():
        state = zeros(rows)
        content = (state, {"clean_rate": 1.0}) if name == "large loss" else state
        released = read_released(content, tmp_path / name)
        dead = [key.removeprefix("module.") for key, *_ in rows if "selector" in key or "fc_hidden" in key]
        assert list(released.dropped) == dead, name
        assert (released.num_classes, released.settings["model"]) == (classes, model), name
        assert len(released.weights) + len(dead) == len(rows), name


def cones_tensor(salt, key, shape):
    """The tensor that the recipe of the CoNeS golden file fills under `key`."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    z = np.random.RandomState(zlib.crc32((salt + key).encode())).standard_normal(shape)
    values = 0.05 * z
    if key.endswith("running_var"):
        values = 1 + np.abs(z)
    elif len(shape) == 1 and not key.endswith(("running_mean", "bias")):
        values = 1 + 0.05 * z
    return torch.from_numpy(values.astype(np.float32))


def filled(rows, salt):
    """Tensors of a key list by that recipe; of the selectors, which are never read, only the shapes."""
    kept = [row for row in rows if "selector" not in row[0]]
    dead = [row for row in rows if "selector" in row[0]]
    return {**{key: cones_tensor(salt, key, shape) for key, shape, _ in kept}, **(zeros(dead) if dead else {})}


def close(found, expected):
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


@torch.no_grad()
def test_golden_logits_of_cones_bce_and_csra(tmp_path):
    golden, listed = load("checkpoint_cones_logits.npz"), load_json("checkpoint_cones.json")
    info = meta(golden)
    depth = int(re.search(r"depth (\d+)", info["model"])[1])
    checked = set()
    for entry in listed["models"].values():
        selectors = any("selector" in key for key, *_ in entry["state_dict"])
        name = f"csra_h{entry['heads']}" if "heads" in entry else "cam" if selectors else "bce"
        expected = golden.get(f"{name}_logits")
        if entry["depth"] != depth or expected is None or expected.shape[1] != entry["num_classes"]:
            continue
        state = filled(entry["state_dict"], info["salt"])
        released = read_released(state, tmp_path / "x.pth", HeadOverrides(lam=info["lam"]))
        assert released.family == {"cam": "cones", "bce": "bce"}.get(name, "csra")
        found = network(released)(torch.from_numpy(golden["input"]), frozenset({"cam"}))
        close(found.logits, expected)
        if f"{name}_heatmap" in golden:
            close(found.features, golden[f"{name}_feature"])
            close(found.cam, golden[f"{name}_heatmap"])
        checked.add(name)
    assert {f"{name}_logits" for name in checked} == {key for key in golden if key.endswith("_logits")}


def large_loss_tensor(key, shape):
    """The tensor that the recipe of the large-loss golden file fills under `key`."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    draw = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape) * 0.05
    if key.endswith("running_var"):
        draw = 1 + np.abs(draw)
    elif key.endswith(".weight") and len(shape) == 1:
        draw = 1 + draw
    return torch.from_numpy(draw.astype(np.float32))


@torch.no_grad()
def test_golden_logits_of_large_loss(tmp_path):
    golden, listed = load("checkpoint_large_loss_logits.npz"), load_json("checkpoint_large_loss.json")
    state = {row["key"]: large_loss_tensor(row["key"], row["shape"]) for row in listed["state_dict"]}
    for name in ("example", "bn_example"):
        first = state[str(golden[f"{name}_key"])].flatten()[:8]
        np.testing.assert_allclose(first.numpy(), golden[f"{name}_first8"], rtol=1e-6)
    path = tmp_path / "bestmodel.pt"
    save((state, released_files.Munch(clean_rate=0.99)), path)
    released = read_released(load_tensors(path), path)
    assert released.family == "large_loss"
    images = np.random.RandomState(int(golden["input_seed"])).standard_normal(golden["input_shape"]).astype(np.float32)
    model = network(released)
    found = model(torch.from_numpy(images), frozenset({"cam"}))
    for value, name in ((found.logits, "logits"), (found.cam, "cam")):
        expected = golden[name]
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    exact = model.double()(torch.from_numpy(images).double(), frozenset({"cam"}))
    for value, name in ((exact.logits, "logits64"), (exact.cam, "cam64")):
        np.testing.assert_allclose(value.numpy(), golden[name], rtol=1e-9, atol=1e-10)


def test_recognise_finds_the_family_without_building_anything(tmp_path):
    family, contents = recognise(FILES["cones"]().content, tmp_path / "x.pth")
    assert (family, contents.form) == ("cones", "bare")
