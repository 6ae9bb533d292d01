"""The methods by name. Adding one: a module here, and a line below."""

from typing import Any, NamedTuple

from losses.asl import ASL, ASLConfig
from losses.assume_negative import AN, BCE, LSAN, WAN, ANConfig, BCEConfig, LabelSmoothingConfig, SmoothedBCE
from losses.cls import CLS, CLSConfig
from losses.co_teaching import (
    CoTeaching,
    CoTeachingConfig,
    CoTeachingPlus,
    CoTeachingPlusConfig,
    Decoupling,
    DecouplingConfig,
    JoCoR,
    JoCoRConfig,
)
from losses.common.base import Criterion
from losses.cones import CoNeS, CoNeSConfig
from losses.curriculum import CurriculumConfig, CurriculumLabelling
from losses.distribution_balanced import DistributionBalanced, DistributionBalancedConfig
from losses.ignore import Ignore, IgnoreConfig
from losses.label_mask import LabelMask, LabelMaskConfig
from losses.large_loss import LargeLoss, LargeLossConfig
from losses.ndlp import NDLP, NDLPConfig
from losses.reweighted import ClassBalanced, ClassBalancedConfig, Focal, FocalConfig
from losses.role import ROLE, ROLEConfig
from losses.single_positive import EPR, IU, PR, EPRConfig, IUConfig, PRConfig


class Method(NamedTuple):
    """A method's class and the dataclass of its settings."""

    criterion: type[Criterion]
    config: type[Any]


CRITERIA: dict[str, Method] = {
    "bce": Method(BCE, BCEConfig),
    "bce_ls": Method(SmoothedBCE, LabelSmoothingConfig),
    "an": Method(AN, ANConfig),
    "an_ls": Method(LSAN, LabelSmoothingConfig),
    "wan": Method(WAN, ANConfig),
    "epr": Method(EPR, EPRConfig),
    "role": Method(ROLE, ROLEConfig),
    "iu": Method(IU, IUConfig),
    "iun": Method(IU, IUConfig),
    "pr": Method(PR, PRConfig),
    "asl": Method(ASL, ASLConfig),
    "focal": Method(Focal, FocalConfig),
    "cb": Method(ClassBalanced, ClassBalancedConfig),
    "db": Method(DistributionBalanced, DistributionBalancedConfig),
    "label_mask": Method(LabelMask, LabelMaskConfig),
    "curriculum": Method(CurriculumLabelling, CurriculumConfig),
    "cones": Method(CoNeS, CoNeSConfig),
    "large_loss": Method(LargeLoss, LargeLossConfig),
    "cls": Method(CLS, CLSConfig),
    "co-teaching": Method(CoTeaching, CoTeachingConfig),
    "co-teaching+": Method(CoTeachingPlus, CoTeachingPlusConfig),
    "decoupling": Method(Decoupling, DecouplingConfig),
    "jocor": Method(JoCoR, JoCoRConfig),
    "ndlp": Method(NDLP, NDLPConfig),
    "ignore": Method(Ignore, IgnoreConfig),
}

BASELINES = (
    "bce",
    "bce_ls",
    "an",
    "an_ls",
    "wan",
    "epr",
    "role",
    "iu",
    "iun",
    "pr",
    "asl",
    "focal",
    "cb",
    "db",
    "label_mask",
    "curriculum",
)
"""The methods without a script of their own: `main_BCE.py --loss NAME`."""

CO_TRAINING = ("cls", "co-teaching", "co-teaching+", "decoupling", "jocor")
"""The methods of two networks, which share `main_cls.py`."""
