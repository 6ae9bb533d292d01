import pytest

from engine.audit.config import AuditConfig
from engine.audit.scores import Plan
from utils.checks import UserError


def test_the_plan_is_what_the_flags_say():
    assert AuditConfig().plan == Plan(5, 10, 0.95, 0)
    assert AuditConfig(folds=3, least=4, duplicates=1, seed=9).plan == Plan(3, 4, 1, 9)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        ({"features": "a", "scores": "b"}, "--features and --scores: labels are scored by one of them"),
        ({"scores": "b", "next": 5}, "--next: looks for images that differ"),
        ({"apply": "b", "next": 5}, "--apply and --next: one corrects a table"),
    ],
)
def test_flags_that_do_not_go_together(flags, fault):
    with pytest.raises(UserError, match=fault):
        AuditConfig(**flags)
