"""The methods by name. Adding one: a module here, and a line below."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import ArrayLike

from losses.asl import ASL, ASLConfig
from losses.assume_negative import AN, BCE, LSAN, WAN, ANConfig, BCEConfig, LabelSmoothingConfig, SmoothedBCE
from losses.build import (
    Labels,
    class_names,
    given_groups,
    given_noise,
    given_priors,
    given_scores,
    label_table,
    require_given,
    require_known,
    typed_config,
)
from losses.cap import CAP, CAPConfig
from losses.cdcr import CDCR, CDCRConfig
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
from losses.comes import COMES, COMESRL, COMESConfig, COMESRLConfig
from losses.comic import COMIC, COMICConfig
from losses.common.base import Criterion
from losses.common.memory import require_room
from losses.cones import CoNeS, CoNeSConfig
from losses.consistency import Consistency, ConsistencyConfig, PartialBCE, PartialBCEConfig
from losses.csl import CSL, CSLConfig
from losses.curriculum import CurriculumConfig, CurriculumLabelling
from losses.distribution_balanced import DistributionBalanced, DistributionBalancedConfig
from losses.em import EM, EMAPL, EMAPLConfig, EMConfig
from losses.gpr import GPR, GPRConfig
from losses.gr import GR, GRConfig
from losses.group_means import GroupConfig, group_regularised
from losses.hst import HST, HSTConfig
from losses.ignore import Ignore, IgnoreConfig
from losses.imcl import IMCL, IMCLConfig
from losses.label_mask import LabelMask, LabelMaskConfig
from losses.large_loss import LargeLoss, LargeLossConfig
from losses.mime import MIME, MIMEConfig
from losses.ndlp import NDLP, NDLPConfig
from losses.plc import LAC, PLC, LACConfig, PLCConfig
from losses.pu_mlc import PUMLC, PUMLCConfig
from losses.reweighted import ClassBalanced, ClassBalancedConfig, Focal, FocalConfig
from losses.role import ROLE, ROLEConfig
from losses.sarb import SARB, SARBConfig
from losses.single_positive import EPR, IU, PR, EPRConfig, IUConfig, PRConfig
from losses.splc import SPLC, Hill, HillConfig, SPLCConfig
from losses.splicemix_cl import SpliceMixCL, SpliceMixCLConfig
from losses.transition import Transition, TransitionConfig
from losses.vlpl import VLPL, VLPLConfig
from utils.checks import require
from utils.class_facts import ClassCounts
from utils.free_memory import usable_memory
from utils.prior_scores import PriorScores
from utils.types import CriterionInfo, LabelTable


class Method(NamedTuple):
    """A method's class, the dataclass of its settings, and the script that trains it."""

    criterion: type[Criterion]
    config: type[Any]
    script: str = "main_BCE.py"


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
    "pu_mlc": Method(PUMLC, PUMLCConfig),
    "gr": Method(GR, GRConfig),
    "asl": Method(ASL, ASLConfig),
    "hill": Method(Hill, HillConfig),
    "plc": Method(PLC, PLCConfig),
    "lac": Method(LAC, LACConfig),
    "splc": Method(SPLC, SPLCConfig),
    "focal": Method(Focal, FocalConfig),
    "cb": Method(ClassBalanced, ClassBalancedConfig),
    "db": Method(DistributionBalanced, DistributionBalancedConfig),
    "comic": Method(COMIC, COMICConfig),
    "label_mask": Method(LabelMask, LabelMaskConfig),
    "partial_bce": Method(PartialBCE, PartialBCEConfig),
    "consistency": Method(Consistency, ConsistencyConfig),
    "sarb": Method(SARB, SARBConfig),
    "hst": Method(HST, HSTConfig),
    "splicemix_cl": Method(SpliceMixCL, SpliceMixCLConfig),
    "csl": Method(CSL, CSLConfig),
    "curriculum": Method(CurriculumLabelling, CurriculumConfig),
    "imcl": Method(IMCL, IMCLConfig),
    "em": Method(EM, EMConfig),
    "em_apl": Method(EMAPL, EMAPLConfig),
    "mime": Method(MIME, MIMEConfig),
    "vlpl": Method(VLPL, VLPLConfig),
    "gpr": Method(GPR, GPRConfig),
    "cap": Method(CAP, CAPConfig),
    "transition": Method(Transition, TransitionConfig),
    "cdcr": Method(CDCR, CDCRConfig),
    "comes": Method(COMES, COMESConfig),
    "comes_rl": Method(COMESRL, COMESRLConfig),
    "cones": Method(CoNeS, CoNeSConfig, "main_CoNeS.py"),
    "large_loss": Method(LargeLoss, LargeLossConfig, "main_llm.py"),
    "cls": Method(CLS, CLSConfig, "main_cls.py"),
    "co-teaching": Method(CoTeaching, CoTeachingConfig, "main_cls.py"),
    "co-teaching+": Method(CoTeachingPlus, CoTeachingPlusConfig, "main_cls.py"),
    "decoupling": Method(Decoupling, DecouplingConfig, "main_cls.py"),
    "jocor": Method(JoCoR, JoCoRConfig, "main_cls.py"),
    "ndlp": Method(NDLP, NDLPConfig, "main_ndlp.py"),
    "ignore": Method(Ignore, IgnoreConfig, "main_ignore.py"),
}


def methods_of(script: str) -> tuple[str, ...]:
    """Names of the methods that a script trains, its default first."""
    return tuple(name for name, method in CRITERIA.items() if method.script == script)


def require_takes(name: str, observed: LabelTable) -> None:
    """Raise UserError if labels (N, C) are soft and the method `name` learns from hard ones only."""
    takers = [other for other, method in CRITERIA.items() if method.criterion.takes_soft]
    require(
        observed.soft is None or name in takers,
        f"{name}: learns from labels that are present or absent, and these are soft (--soft_labels keep); take "
        f"--soft_labels threshold=0.5, or a method for soft ones: {', '.join(takers)}",
    )


def build_criterion(
    name: str,
    *,
    observed: Labels,
    classes: Sequence[str] | None = None,
    epochs: int = 1,
    steps_per_epoch: int = 1,
    feature_width: int | None = None,
    seed: int = 0,
    clean: Labels | None = None,
    frozen_epochs: int = 0,
    class_priors: ArrayLike | None = None,
    prior_scores: PriorScores | ArrayLike | None = None,
    noise_rates: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    class_vector_width: int = 0,
    regulariser: GroupConfig | None = None,
    **options: Any,
) -> Criterion:
    """Build any criterion for a training loop of your own.

    Args:
        name: a method, a key of `CRITERIA`.
        observed: labels (N, C) of the training set: 1 present, 0 absent, -1 unknown.
        classes: C names.
        epochs: length of the training, which some schedules follow.
        steps_per_epoch: batches per epoch.
        feature_width: channels of the network's feature map, for methods that need features.
        seed: of the random initial state of a method, where it has one.
        clean: true labels (N, C), for class frequencies where an option asks for them.
        frozen_epochs: epochs, from the first on, in which the backbone does not learn.
        class_priors: (C,) shares of images that each class is in, for methods that use them.
        prior_scores: (N, C) probabilities of the labels from outside, for methods that learn from them.
        noise_rates: (C, 2) chances of an absent label to be seen as present and of a present one to be seen as absent,
            for methods that use them.
        groups: (N,) numbers or names of what each image belongs to, for the regulariser.
        class_vector_width: numbers in the vector of a class that the head gives, for methods that embed it.
        regulariser: the group regulariser, on top of any method of one forward pass; none by default.
        options: settings of the method by name, as values or as the text that its flag takes.

    Raises:
        UserError: unknown name or option, a value that does not fit, labels that the method cannot use, or more of them
            than memory holds what it keeps of each.
    """
    require_known("method", name, CRITERIA)
    kind, config, _ = CRITERIA[name]
    criterion = group_regularised(name, kind, regulariser or GroupConfig())
    require_given(name, criterion.needs, feature_width=feature_width, prior_scores=prior_scores, groups=groups)
    table = label_table(observed)
    require_takes(name, table)
    info = CriterionInfo(
        observed=table,
        classes=class_names(classes, table.num_classes),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        feature_width=feature_width or 0,
        class_counts=ClassCounts(table.counts(), "observed"),
        seed=seed,
        clean_counts=None if clean is None else ClassCounts(label_table(clean).counts(), "clean"),
        frozen_epochs=frozen_epochs,
        class_priors=given_priors(class_priors, table.num_classes),
        prior_scores=given_scores(prior_scores, len(table), table.num_classes),
        noise_rates=given_noise(noise_rates, table.num_classes),
        groups=given_groups(groups, len(table)),
        class_vector_width=class_vector_width,
    )
    settings = typed_config(name, config, options)
    needs = criterion.memory_needs(settings, info)
    require_room(name, needs, usable_memory(), "in memory", "take fewer images, or a method that keeps less")
    return criterion(settings, info)
