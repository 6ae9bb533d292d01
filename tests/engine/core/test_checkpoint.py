"""Model files of ours: what is refused, in one line that names the file."""

from pathlib import Path

import pytest
import torch

from engine.core import checkpoint as room
from engine.core.checkpoint import image_marks, load_weights, read_model, read_state, save_model, save_state
from models.build import Architecture, build_model
from models.peers import build_peers
from utils.checks import UserError
from utils.sealed_files import save_sealed

SMALL = {"model": "scenenet", "weights": "none"}
CLASSES = ("a", "b", "c")


def saved(path, build=build_model):
    network = build(Architecture.of(**SMALL), len(CLASSES), seed=1)
    save_model(path, network, CLASSES, SMALL, 4)
    return network


@pytest.mark.parametrize("build", [build_model, build_peers])
def test_a_network_reads_back(tmp_path, build):
    network = saved(tmp_path / "best.pth", build)
    reread = read_model(tmp_path / "best.pth")
    assert (reread.classes, reread.epoch, reread.peers) == (CLASSES, 4, build is build_peers)
    again = reread.build().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())


def test_a_file_that_does_not_say_how_many_networks_it_holds_is_of_one(tmp_path):
    saved(tmp_path / "best.pth")
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    del content["peers"]
    torch.save(content, tmp_path / "old.pth")
    assert not read_model(tmp_path / "old.pth").peers


@pytest.mark.parametrize("name", ["model", "classes", "settings", "epoch"])
@pytest.mark.parametrize("value", [None, "text"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, name, value):
    saved(tmp_path / "best.pth")
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    content[name] = value
    if value is None:
        del content[name]
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=f"bad.pth: a damaged model file: `{name}`") as caught:
        read_model(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("classes", ["a", 1, "c"]), ("settings", {1: 2, "model": "scenenet"}), ("model", {"a": 1}), ("model", [1])],
)
def test_a_part_with_something_else_in_it_is_refused(tmp_path, name, value):
    saved(tmp_path / "best.pth")
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    torch.save(content | {name: value}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=f"bad.pth: a damaged model file: `{name}` is missing or of another kind"):
        read_model(tmp_path / "bad.pth")


@pytest.mark.parametrize("name", ["g.head", "f.head"])
def test_two_networks_of_which_one_lacks_weights_are_refused(tmp_path, name):
    saved(tmp_path / "best.pth", build_peers)
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    content["model"] = {key: value for key, value in content["model"].items() if not key.startswith(name)}
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=f"no {name}"):
        read_model(tmp_path / "bad.pth").build()


def test_a_file_knows_the_images_that_its_network_was_trained_on(tmp_path):
    network = build_model(Architecture.of(**SMALL), len(CLASSES), seed=1)
    save_model(tmp_path / "best.pth", network, CLASSES, SMALL, 4, trained_on=["1.jpg", "2.jpg", "\udcff.jpg"])
    reread = read_model(tmp_path / "best.pth")
    assert reread.seen(["2.jpg", "3.jpg", "\udcff.jpg", "1.jpg", "1.jpeg"]) == 3
    assert reread.seen([]) == 0
    save_model(tmp_path / "none.pth", network, CLASSES, SMALL, 4)
    assert read_model(tmp_path / "none.pth").seen(["1.jpg"]) == 0
    marks = image_marks(["1.jpg", "2.jpg", "1.jpg"])
    assert (marks.dtype, marks.shape, image_marks(()).dtype) == (torch.int64, (3,), torch.int64)
    assert marks[0] == marks[2] != marks[1]


@pytest.mark.parametrize("value", [None, "1.jpg", image_marks(["1.jpg"])[None], image_marks(["1.jpg"]).double()])
def test_marks_of_another_kind_count_as_none(tmp_path, value):
    saved(tmp_path / "best.pth")
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    torch.save(content | {"trained_on": value}, tmp_path / "other.pth")
    reread = read_model(tmp_path / "other.pth")
    assert (reread.trained_on.tolist(), reread.seen(["1.jpg"])) == ([], 0)


def state_of(number):
    return {"loop": {"w": torch.ones(number)}, "recorder": {}, "label_hash": "b" * 64}


def test_a_state_is_written_anew_and_the_one_before_is_kept_on_request(tmp_path):
    file, before = tmp_path / "state.pth", tmp_path / "previous.pth"
    for number in (1, 2, 3):
        save_state(file, state_of(number), before)
        assert read_state(file)["loop"]["w"].tolist() == [1.0] * number
    assert read_state(before)["loop"]["w"].tolist() == [1.0] * 2
    assert sorted(tmp_path.iterdir()) == [before, file]


@pytest.mark.parametrize("place", [lambda odd: {"model": {"w": odd}}, lambda odd: {"ranks": [{"w": odd}]}])
def test_a_state_with_a_tensor_of_no_real_numbers_is_refused(tmp_path, place):
    for odd in (torch.ones(2, dtype=torch.complex64), torch.ones(2, device="meta")):
        save_sealed(tmp_path / "state.pth", {**state_of(1), "loop": place(odd)})
        with pytest.raises(UserError, match=r"state\.pth"):
            read_state(tmp_path / "state.pth")


@pytest.mark.parametrize("content", [{}, [1], {"loop": {}, "recorder": {}}, {"label_hash": "", "loop": {}}])
def test_what_is_no_state_of_a_run_is_refused(tmp_path, content):
    save_state(tmp_path / "state.pth", content)
    with pytest.raises(UserError, match=r"state\.pth: damaged, or not the state of a run"):
        read_state(tmp_path / "state.pth")


def test_a_model_that_was_edited_after_it_was_sealed_is_refused(tmp_path):
    saved(tmp_path / "best.pth")
    content = bytearray((tmp_path / "best.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "best.pth").write_bytes(content)
    with pytest.raises(UserError, match="its checksum is wrong"):
        read_model(tmp_path / "best.pth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"missing"}, "no head.fc.weight; 1 keys missing, 0 unexpected, 0 of another shape"),
        ({"unknown"}, "unexpected a.more; 0 keys missing, 1 unexpected, 0 of another shape"),
        ({"shape"}, "shape of head.fc.bias; 0 keys missing, 0 unexpected, 1 of another shape"),
        ({"missing", "unknown", "shape"}, "no head.fc.weight; 1 keys missing, 1 unexpected, 1 of another shape"),
    ],
)
def test_weights_that_do_not_fit_are_counted_before_a_network_is_made(tmp_path, monkeypatch, change, words):
    saved(tmp_path / "best.pth")
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    if "missing" in change:
        del content["model"]["head.fc.weight"]
    if "unknown" in change:
        content["model"]["a.more"] = torch.ones(1)
    if "shape" in change:
        content["model"]["head.fc.bias"] = torch.ones(9)
    torch.save(content, tmp_path / "bad.pth")
    monkeypatch.setattr("engine.core.checkpoint.load_weights", lambda *_: pytest.fail("a network was made"))
    with pytest.raises(UserError) as error:
        read_model(tmp_path / "bad.pth").build()
    assert f"bad.pth: a checkpoint of another architecture ({words}); give" in str(error.value)


@pytest.mark.parametrize("build", ["build_model", "build_peers"])
def test_a_network_is_built_without_weights_from_elsewhere(tmp_path, monkeypatch, build):
    saved(tmp_path / "best.pth", build_peers if build == "build_peers" else build_model)
    asked, real = [], getattr(room, build)
    monkeypatch.setattr(room, build, lambda *args, **named: asked.append((args[1], named)) or real(*args, **named))
    read_model(tmp_path / "best.pth").build()
    assert asked == [(3, {"seed": 0, "pretrained": False})] * 2  # without values, to be compared, and then with them


def test_weights_that_do_not_fit_a_network_leave_it_as_it_was():
    network = build_model(Architecture.of(**SMALL), len(CLASSES), seed=1)
    state = network.state_dict()
    before, name = state["head.fc.bias"].clone(), next(iter(state))
    weights = {key: torch.ones_like(value) for key, value in state.items() if key != name}
    with pytest.raises(UserError, match=f"w.pth: a checkpoint of another architecture .no {name}; 1 keys missing"):
        load_weights(network, weights, Path("w.pth"))
    assert torch.equal(network.state_dict()["head.fc.bias"], before)


@pytest.mark.parametrize("held", [{"saliency": 0.5}, {"saliency": "0.5", "saliency_test": False}])
def test_a_network_with_saliency_is_scored_with_it_or_without(tmp_path, held):
    save_model(tmp_path / "best.pth", saved(tmp_path / "plain.pth"), CLASSES, {**SMALL, **held}, 4)
    model = read_model(tmp_path / "best.pth")
    for in_test in (True, False):
        assert model.with_saliency(in_test).build().head.added == (0.5, 5, in_test)


@pytest.mark.parametrize("held", [{}, {"saliency": 0.0}, {"saliency": None}])
def test_a_network_without_saliency_cannot_be_scored_with_it(tmp_path, held):
    save_model(tmp_path / "best.pth", saved(tmp_path / "plain.pth"), CLASSES, {**SMALL, **held}, 4)
    with pytest.raises(UserError, match=r"^--saliency_test: the network in .*best\.pth was trained without saliency; "):
        read_model(tmp_path / "best.pth").with_saliency(True)
