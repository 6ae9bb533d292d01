import pytest

from utils.nearest import nearest

NAMES = ["resnet50", "resnet101", "vit_b_16", "tresnet_l"]


@pytest.mark.parametrize(
    "name, meant",
    [
        ("resnet5", "resnet50"),
        ("resnet10", "resnet101"),
        ("vit_b16", "vit_b_16"),
        ("tresnet", "tresnet_l"),
        ("xyz", None),
        ("", None),
    ],
)
def test_the_most_similar_name(name, meant):
    assert nearest(name, NAMES) == meant
    assert nearest(name, iter(NAMES)) == meant
    assert nearest(name, []) is None
