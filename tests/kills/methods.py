"""The runs that are killed: every method on a tiny dataset, and what a run may keep besides."""

from collections.abc import Iterator
from pathlib import Path

COMMON = (
    "--dataset voc07 --model scenenet --weights none --img_size 32 --batch_size 4 --threads 1 --device cpu "
    "--epochs 3 --warmup_epoch 1 --save_minutes 0 --augment flip --seed 1"
)
CANDIDATE, ONE, KNOWN = "--labels candidate --partial_rate 0.3", "--labels single", "--labels known --known_rate 0.6"
STEADY = "--lr 0.001 --optimizer adam --scheduler constant --warmup_epoch 0"
SEMI = "--labels semi --labelled_share 0.5 --sampler semi --labelled_per_batch 2"
LARGE = f"{ONE} --delta_rel 5 {STEADY} --mod_scheme"
ROLE = f"--loss role --expected_num_pos 1.5 {ONE}"
CONES = f"{CANDIDATE} --clusters 2 --beta 0.5 --memory_per_class 8"

METHODS = {
    "bce": f"main_BCE {CANDIDATE}",
    "bce_ls": "main_BCE --loss bce_ls --labels full",
    "an": f"main_BCE --loss an {ONE}",
    "an_ls": f"main_BCE --loss an_ls {ONE}",
    "wan": f"main_BCE --loss wan {ONE}",
    "epr": f"main_BCE --loss epr --expected_num_pos 1.5 {ONE}",
    "role": f"main_BCE {ROLE}",
    "iu": f"main_BCE --loss iu {KNOWN}",
    "iun": f"main_BCE --loss iun {KNOWN}",
    "pr": f"main_BCE --loss pr {ONE}",
    "gr": f"main_BCE --loss gr --pseudo_slope 0,9 {ONE}",
    "curriculum": f"main_BCE --loss curriculum {KNOWN}",
    "imcl": f"main_BCE --loss imcl --dictionary_size 8 --feature_loss {KNOWN}",
    "partial_bce": f"main_BCE --loss partial_bce {KNOWN}",
    "consistency": f"main_BCE --loss consistency {KNOWN}",
    "pu_mlc": f"main_BCE --loss pu_mlc --scale_floor 0.1 {ONE} {STEADY}",
    "plc": f"main_BCE --loss plc --pseudo_threshold 0.5 {ONE}",
    "sarb": f"main_BCE --loss sarb --blend_from 2 {KNOWN}",
    "splicemix_cl": f"main_BCE --loss splicemix_cl --mix splice --pool max {CANDIDATE}",
    "hst": f"main_BCE --loss hst --pseudo_from 2 --intra_margin 0.5 --prototypes 2 --cooccurrence_width 8 {KNOWN}",
    "lac": f"main_BCE --loss lac --lac_warmup 1 --queue_size 8 --embedding_width 4 {ONE}",
    "csl": f"main_BCE --loss csl --likelihood_topk 2 --prior observed --prior_threshold 0.3 {KNOWN}",
    "em": f"main_BCE --loss em {ONE}",
    "em_apl": f"main_BCE --loss em_apl --apl_warmup 1 {ONE}",
    "mime": f"main_BCE --loss mime --mime_warmup 1 --pseudo_threshold 0.5 --head q2l --hidden_dim 32 --nheads 2 "
    f"--bottleneck 8 {ONE}",
    "vlpl": f"main_BCE --loss vlpl --prior_scores scores.npz {ONE}",
    "gpr": f"main_BCE --loss gpr --expected_num_pos 1.5 --prior_scores scores.npz {ONE}",
    "asl": f"main_BCE --loss asl {CANDIDATE}",
    "hill": f"main_BCE --loss hill {ONE} {STEADY}",
    "splc": f"main_BCE --loss splc --tau 0.5 {ONE} {STEADY}",
    "focal": f"main_BCE --loss focal {CANDIDATE}",
    "cb": f"main_BCE --loss cb {CANDIDATE}",
    "db": f"main_BCE --loss db {CANDIDATE} --sampler class-aware --sampler_reduce 2",
    "comic": f"main_BCE --loss comic --tau 0.5 {ONE}",
    "label_mask": f"main_BCE --loss label_mask --head ctran --hidden_dim 32 --num_heads 2 {CANDIDATE}",
    "LL-R": f"main_llm {LARGE} LL-R",
    "LL-Ct": f"main_llm {LARGE} LL-Ct",
    "LL-Cp": f"main_llm {LARGE} LL-Cp --export_labels OUT/corrected.npy",
    "cap": f"main_BCE --loss cap {SEMI} --pseudo_weights calibrated --ema 0.9 {STEADY}",
    "transition": f"main_BCE --loss transition --labels flip --transition_warmup 2 --sample_epoch 1 {STEADY}",
    "cdcr": f"main_BCE --loss cdcr --cdcr_warmup 1 {CANDIDATE}",
    "comes": f"main_BCE --loss comes {CANDIDATE}",
    "comes_rl": f"main_BCE --loss comes_rl --flood 0.5 {CANDIDATE}",
    "cones": f"main_CoNeS {CONES}",
    "ndlp": f"main_ndlp {CANDIDATE} --neck_width 16 --sampler_reduce 2 --scheduler constant --warmup_epoch 0",
    "cls": "main_cls --labels_left 50 --tau_h 0.2 --tau_l 0.2 --ramp_epochs 2",
    "co-teaching": "main_cls --method co-teaching --labels_left 50",
    "co-teaching+": "main_cls --method co-teaching+ --labels_left 50",
    "decoupling": "main_cls --method decoupling --labels_left 50",
    "jocor": "main_cls --method jocor --labels_left 50",
    "ignore": f"main_ignore {STEADY}",
}
"""Script and flags of each method."""

BESIDES = {
    "bce+ema": f"main_BCE {CANDIDATE} --ema 0.9",
    "bce+record+clip": f"main_BCE {CANDIDATE} --record all --clip_grad 0.5",
    "bce+plateau": f"main_BCE {CANDIDATE} --scheduler plateau --patience 0 --val_frac 0.3 --epochs 5",
    "bce+one_cycle": f"main_BCE {CANDIDATE} --scheduler one_cycle --warmup_epoch 0",
    "bce+linear_init": f"main_BCE {CANDIDATE} --train_mode linear_init --linear_epochs 1",
    "bce+fixed_features": f"main_BCE {CANDIDATE} --train_mode linear_fixed_features --augment none",
    "bce+early_stop": f"main_BCE {CANDIDATE} --early_stop 0 --val_frac 0.3 --epochs 6 --lr 0.2",
    "em_apl+early_stop": f"main_BCE --loss em_apl {ONE} --early_stop first --val_frac 0.3 --epochs 6 --lr 0.2",
    "bce+selection": f"main_BCE {CANDIDATE} --selection test --epochs 5",
    "bce+bf16": f"main_BCE {CANDIDATE} --precision bf16",
    "bce+workers": f"main_BCE {CANDIDATE} --num_workers 2",
    "bce+cache": f"main_BCE {CANDIDATE} --cache disk",
    "LL-Cp+record": f"main_llm {LARGE} LL-Cp --record all",
    "cls+ema+record": "main_cls --labels_left 50 --ramp_epochs 2 --ema 0.9 --record all",
    "cones+ema+val": f"main_CoNeS {CONES} --ema 0.9 --val_frac 0.3",
    "bce+splice": f"main_BCE {CANDIDATE} --mix splice",
    "sarb+prototypes": f"main_BCE --loss sarb --blend_from 2 --prototypes 2 --prototype_every 1 {KNOWN}",
    "boostlu": f"main_BCE {CANDIDATE} --boostlu 5",
    "saliency": f"main_BCE {CANDIDATE} --saliency 0.5",
    "q2l+asl": f"main_BCE --loss asl --head q2l --hidden_dim 32 --num_heads 2 {CANDIDATE}",
    "role+plateau": f"main_BCE {ROLE} --ema 0.9 --record all --scheduler plateau --patience 0 --val_frac 0.3",
}
"""The same for what a run may keep besides the state of a method."""

ALL = METHODS | BESIDES
WITH_LABEL_STATE = ("role", "LL-Cp", "cones", "ndlp", "cls", "curriculum", "em_apl", "cdcr", "cap", "ignore")
WITH_LABEL_STATE += ("vlpl", "gpr", "mime", "imcl", "transition", "LL-Cp+record")
"""Runs with state per label or image, which several processes share."""


def words_of(name: str, output: Path) -> tuple[str, list[str]]:
    """Script and command line of a run; of a flag given twice the later counts."""
    script, *words = f"{ALL[name]}".replace("OUT", str(output)).split()
    flags = dict([*_flags(COMMON.split()), *_flags(words)])
    line = [part for flag, values in flags.items() for part in (flag, *values)]
    return script, [*line, "--output", str(output)]


def _flags(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with its values."""
    starts = [n for n, word in enumerate(words) if word.startswith("--")]
    for start, end in zip(starts, [*starts[1:], len(words)], strict=True):
        yield words[start], words[start + 1 : end]
