import pytest
import torch
from torch import nn

from models.backbones.build import SceneNet, build_backbone
from models.backbones.feature_extractors import Backbone
from models.classifier import Classifier, OnFeatures, Pooling
from models.heads.csra import CSRAHead
from models.heads.ctran import CTranHead
from models.heads.gcn import GCNHead, LabelGraph
from models.heads.linear import LinearHead
from models.heads.pfc import PFCHead
from models.heads.query2label import Query2LabelHead
from utils.checks import UserError
from utils.grids import Layout


def gcn_head():
    return GCNHead(96, LabelGraph(torch.randn(5, 12), torch.rand(5, 5)), 16)


HEADS = {
    "linear": lambda: LinearHead(96, 5),
    "csra": lambda: CSRAHead(96, 5, 4, 0.2),
    "pfc": lambda: PFCHead(96, 5, 8, 0.0),
    "q2l": lambda: Query2LabelHead(96, 5, inner=32, dropout=0.0),
    "gcn": gcn_head,
    "ctran": lambda: CTranHead(96, 5, dropout=0.0),
}
KNOWN = torch.tensor([[1, 0, -1, -1, 0]])


@pytest.fixture(params=HEADS)
def model(request):
    torch.manual_seed(0)
    return Classifier(SceneNet(), HEADS[request.param]())


def images(seed=0, batch=4):
    return torch.rand(batch, 3, 40, 40, generator=torch.Generator().manual_seed(seed))


def test_output_shapes_and_the_cam_only_when_asked_for(model):
    plain, asked = model.eval()(images()), model(images(), want=frozenset({"cam"}))
    assert plain.logits.shape == (4, 5)
    assert plain.features.shape == (4, model.feature_width, 5, 5)
    assert plain.cam is None
    assert asked.cam.shape == (4, 5, 5, 5)
    assert not asked.cam.requires_grad
    torch.testing.assert_close(asked.logits, plain.logits, rtol=0, atol=0)


def test_logits_and_cam_come_from_the_features(model):
    found = model.eval()(images(), frozenset({"cam"}))
    torch.testing.assert_close(found.logits, model.head(found.features))
    torch.testing.assert_close(found.cam, model.head.cam(found.features))


def test_every_parameter_gets_a_gradient(model):
    known = KNOWN.expand(4, -1) if isinstance(model.head, CTranHead) else None
    model(images(), known=known).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_parameters_are_split_into_backbone_and_head(model):
    backbone, head = map(set, (model.backbone_parameters(), model.head_parameters()))
    assert not backbone & head
    assert backbone | head == set(model.parameters())
    assert {id(p) for p in head} == {id(p) for name, p in model.named_parameters() if name.startswith("head.")}


def test_a_part_without_parameters_is_an_error():
    with pytest.raises(ValueError, match=r"head \(Identity\)"):
        Classifier(SceneNet(), nn.Identity()).head_parameters()
    with pytest.raises(ValueError, match=r"backbone \(Nothing\)"):
        Classifier(Nothing(), LinearHead(96, 5)).backbone_parameters()


class Nothing(Backbone):
    def stages(self):
        return []


def test_known_labels_reach_the_head_that_takes_them_and_no_other():
    model = Classifier(SceneNet(), HEADS["ctran"]()).eval()
    known = KNOWN.expand(4, -1)
    given = model(images(), known=known)
    torch.testing.assert_close(given.logits, model.head.with_labels(given.features, known))
    assert not torch.allclose(given.logits, model(images()).logits)
    for name in set(HEADS) - {"ctran"}:
        with pytest.raises(ValueError, match="takes no labels"):
            Classifier(SceneNet(), HEADS[name]())(images(), known=known)


def test_the_head_classifies_tiles_of_the_last_images_as_it_does_images(model):
    model.eval()
    layout = Layout(2, 1, torch.tensor([[1, 0]]), torch.tensor([[True, False]]))
    large = torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(0))  # maps of 6 x 6 positions
    found, plain = model(large, layout=layout), model(large)
    torch.testing.assert_close(found.logits, plain.logits)
    assert plain.tile_logits is None
    assert found.tile_logits.shape == (1, 2, 5)
    tiles = torch.stack([found.features[3, :, :3], found.features[3, :, 3:]])
    torch.testing.assert_close(found.tile_logits[0], model.head(tiles))
    model.train()
    model(images(), layout=layout).tile_logits.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.backbone_parameters())


def test_images_of_a_batch_do_not_mix_in_evaluation(model):
    model.eval()
    together, alone = model(images()).logits, model(images()[1:2]).logits
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)


def test_permuted_classes_permute_logits_and_cam():
    torch.manual_seed(0)
    model, order = Classifier(SceneNet(), LinearHead(96, 5)).eval(), torch.tensor([3, 0, 4, 1, 2])
    before = model(images(), frozenset({"cam"}))
    with torch.no_grad():
        model.head.fc.weight.copy_(model.head.fc.weight[order])
        model.head.fc.bias.copy_(model.head.fc.bias[order])
    after = model(images(), frozenset({"cam"}))
    torch.testing.assert_close(after.logits, before.logits[:, order])
    torch.testing.assert_close(after.cam, before.cam[:, order])


def test_bfloat16_autocast_is_finite(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(images(), frozenset({"cam"}))
    found.logits.float().sum().backward()
    assert found.logits.isfinite().all()
    assert found.cam.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def norms(model):
    return {name: module for name, module in model.backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}


def kept(name, stages):
    """Tell whether a parameter or module of the backbone, by name, belongs to its first layer or that many stages."""
    return stages >= 0 and (
        name.split(".")[0] in {"conv1", "bn1"} or any(f"layer{k}" in name for k in range(1, stages + 1))
    )


@pytest.mark.parametrize("stages", [-1, 0, 1, 3])
@pytest.mark.parametrize("norm_eval", [False, True])
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(stages, norm_eval):
    torch.manual_seed(0)
    model = Classifier(SceneNet(), LinearHead(96, 5), frozen_stages=stages, norm_eval=norm_eval)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train(False)
    model.train()(images()).logits.square().sum().backward()
    for name, parameter in model.backbone.named_parameters():
        assert (parameter.grad is None) == kept(name, stages), name
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    for name, norm in norms(model).items():
        still = norm_eval or kept(name, stages)
        assert norm.training != still, name
        assert torch.equal(norm.running_mean, before[f"backbone.{name}.running_mean"]) == still, name


def test_a_thawed_backbone_leaves_its_frozen_stages_frozen():
    model = Classifier(SceneNet(), LinearHead(96, 5), frozen_stages=1, norm_eval=True)
    model.freeze_backbone(True)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    model.freeze_backbone(False)
    for name, parameter in model.backbone.named_parameters():
        assert parameter.requires_grad != kept(name, 1), name
    assert model.backbone.training
    assert not any(norm.training for norm in norms(model).values())


def test_what_stays_changes_no_name_and_no_value_of_the_model():
    torch.manual_seed(0)
    plain = Classifier(SceneNet(), LinearHead(96, 5))
    torch.manual_seed(0)
    frozen = Classifier(SceneNet(), LinearHead(96, 5), frozen_stages=2, norm_eval=True)
    assert list(plain.state_dict()) == list(frozen.state_dict())
    torch.testing.assert_close(plain.eval()(images()).logits, frozen.eval()(images()).logits, rtol=0, atol=0)


def test_frozen_norms_keep_statistics_scale_and_shift():
    torch.manual_seed(0)
    model = Classifier(SceneNet(), LinearHead(96, 5), frozen_stages=0, norm_frozen=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.freeze_backbone(True)
    model.freeze_backbone(False)
    model.train()(images()).logits.square().sum().backward()
    still = {f"{name}.{part}" for name in norms(model) for part in ("weight", "bias")} | {"conv1.weight"}
    assert {name for name, parameter in model.backbone.named_parameters() if parameter.grad is None} == still
    for name, value in model.backbone.named_buffers():
        assert torch.equal(value, before[f"backbone.{name}"]), name


def test_frozen_stages_of_a_transformer_have_tokens_and_positions():
    with torch.device("meta"):
        model = Classifier(build_backbone("vit_b_32"), LinearHead(768, 5), frozen_stages=1)
    kept = {name for name, parameter in model.backbone.named_parameters() if not parameter.requires_grad}
    assert {"class_token", "conv_proj.weight", "encoder.pos_embedding"} < kept
    assert all(
        "encoder_layer_0." in name for name in kept - {"class_token", "encoder.pos_embedding"} if "conv" not in name
    )


@pytest.mark.parametrize("name, size, least", [("scenenet", 8, 9), ("scenenet", 4, 9), ("squeezenet1_1", 8, 33)])
def test_images_that_are_too_small_are_refused_naming_a_size_that_is_not(name, size, least):
    backbone = build_backbone(name)
    model = Classifier(backbone, LinearHead(backbone.width, 5))
    with pytest.raises(UserError, match=f"^--img_size {size}: too small for {name}, give at least {least}$"):
        model.check_size(name, size)
    for enough in (least, 224):
        model.check_size(name, enough)


class OneSize(SceneNet):
    def forward(self, images):
        if images.shape[2] != 224:
            raise RuntimeError("no\n224")
        return super().forward(images)


def test_images_a_backbone_cannot_take_are_refused_in_one_line():
    model = Classifier(OneSize(), LinearHead(96, 5))
    model.check_size("one", 224)
    with pytest.raises(UserError, match=r"^--img_size 448: one cannot take it \(no 224\); give 224$"):
        model.check_size("one", 448)
    with pytest.raises(UserError, match="give at least 224"):
        model.check_size("one", 64)


class OnePosition(SceneNet):
    def forward(self, images):
        return super().forward(images).mean(dim=(2, 3), keepdim=True)


def test_a_backbone_that_leaves_one_position_is_refused_whatever_the_size():
    model = Classifier(OnePosition(), LinearHead(96, 5))
    for size in (8, 64, 448):
        with pytest.raises(UserError, match=rf"^--img_size {size}: one cannot take it [^\n]*; take another network$"):
            model.check_size("one", size)


def test_a_map_of_two_positions_is_enough():
    class TwoPositions(SceneNet):
        def forward(self, images):
            return super().forward(images)[:, :, :1, :2]

    Classifier(TwoPositions(), LinearHead(96, 5)).check_size("two", 64)


@pytest.mark.parametrize(
    "name, pooled",
    [("linear", True), ("csra", False), ("pfc", True), ("q2l", False), ("gcn", False), ("ctran", False)],
)
def test_heads_tell_whether_they_use_the_mean_alone(name, pooled):
    torch.manual_seed(0)
    assert Classifier(SceneNet(), HEADS[name]()).reads_pooled() == pooled


def only(side):
    """A backbone that takes images of one size."""

    class Only(SceneNet):
        def forward(self, images):
            if images.shape[2:] != (side, side):
                raise ValueError("another size")
            return images[:, :, :2, :2]

    return Only()


@pytest.mark.parametrize("side", [224, 240, 256, 288, 320, 336, 384, 392, 448, 512, 518])
def test_the_size_that_a_network_was_published_for_is_named(side):
    model = Classifier(only(side), LinearHead(96, 5))
    with pytest.raises(UserError, match=rf"^--img_size 600: it cannot take it \(another size\); give {side}$"):
        model.check_size("it", 600)


class Watched(PFCHead):
    """A head that notes how it is run."""

    def __init__(self):
        super().__init__(96, 5, 8, 0.5)
        self.modes = set()

    def forward(self, features):
        self.modes.add((self.training, torch.is_grad_enabled()))
        return super().forward(features)


@pytest.mark.parametrize("training", [True, False])
def test_the_try_of_a_head_is_without_dropout_and_gradient_and_leaves_its_mode(training):
    model = Classifier(SceneNet(), Watched()).train(training)
    assert model.reads_pooled()
    assert model.head.modes == {(False, False)}
    assert all(module.training == training for module in model.modules())


def test_pooled_features_give_the_logits_of_a_head_that_pools_first():
    torch.manual_seed(0)
    model = Classifier(SceneNet(), LinearHead(96, 5)).eval()
    pooled = Pooling(model)(images())
    assert pooled.shape == (4, 96)
    torch.testing.assert_close(OnFeatures(model)(pooled[:, :, None, None]).logits, model(images()).logits)


def test_features_in_the_place_of_images_give_all_that_images_give():
    for name, build in HEADS.items():
        torch.manual_seed(0)
        model = Classifier(SceneNet(), build()).eval()
        maps, known = model.backbone(images()), torch.zeros(4, 5)
        for want in (frozenset(), frozenset({"cam"})):
            expected, found = model(images(), want), OnFeatures(model)(maps, want)
            for one, other in zip(expected, found, strict=True):
                assert torch.equal(one, other) if one is not None else other is None
        if name == "ctran":
            assert torch.equal(OnFeatures(model)(maps, known=known).logits, model(images(), known=known).logits)
