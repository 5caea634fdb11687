"""The columns of the records: the table that every record has, and the names of those that listeners add."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import polars as pl


class Column(NamedTuple):
    """One column of the records.

    Args:
        name: Its name.
        type: Its type, in the journal's readers and in `records.parquet`.
        nullable: Whether its value may be missing.
        meaning: What a value says, in one line.
    """

    name: str
    type: pl.DataType
    nullable: bool
    meaning: str


_TABLE = (
    Column("schema", pl.Int64(), False, "version of this table; the journal adds it"),
    Column("key", pl.String(), False, "hash of the victim's weights, the data and the attack's parameters"),
    Column("run", pl.String(), False, "name of the run"),
    Column("victim", pl.String(), False, "name of the victim, such as its backbone"),
    Column("dataset", pl.String(), False, "name of the dataset"),
    Column("split", pl.String(), False, "name of the split"),
    Column("id", pl.String(), False, "the image, unique within the split"),
    Column("patient", pl.String(), True, "patient whom the image shows; null where the data do not say"),
    Column("target", pl.Int64(), True, "true class; null where the target is not a single class"),
    Column("goal", pl.Int64(), True, "class that a targeted attack aims at; null for the others"),
    Column("attack", pl.String(), False, "name of the attack in the configuration"),
    Column("method", pl.String(), False, "class of the attack"),
    Column("epsilon", pl.Float64(), True, "radius, in units of the [0, 1] image range; null if unbounded"),
    Column("clean_prediction", pl.Int64(), True, "class predicted for the clean image"),
    Column("adversarial_prediction", pl.Int64(), True, "class predicted for the adversarial image"),
    Column("clean_confidence", pl.Float64(), True, "probability of the class predicted for the clean image, in [0, 1]"),
    Column("adversarial_confidence", pl.Float64(), True, "probability of that predicted for the adversarial image"),
    Column("correct_before", pl.Boolean(), False, "whether the victim is right about the clean image"),
    Column("correct_after", pl.Boolean(), False, "whether it is right about the adversarial image"),
    Column("reached", pl.Boolean(), False, "whether the attack reached its aim: left the truth, or reached its goal"),
    Column("success", pl.Boolean(), False, "correct_before and reached"),
    Column(
        "quality_before",
        pl.Float64(),
        True,
        "quality of the output on the clean image, in [0, 1]: probability of the truth, Jaccard index, recall of boxes",
    ),
    Column("quality_after", pl.Float64(), True, "quality of the output on the adversarial image, in [0, 1]"),
    Column(
        "linf",
        pl.Float64(),
        False,
        "L-infinity norm of adversarial - clean, in units of the [0, 1] range; rounding may add 3e-8 to epsilon",
    ),
    Column("l2", pl.Float64(), False, "L2 norm of adversarial - clean"),
    Column("l0", pl.Int64(), True, "number of changed values"),
    Column("forwards", pl.Int64(), False, "forward passes of this image through the victim that the attack spent"),
    Column("backwards", pl.Int64(), False, "backward passes"),
    Column(
        "zero_gradients",
        pl.Int64(),
        False,
        "backward passes whose objective had saturated or gradient was zero or not finite",
    ),
    Column("seed", pl.Int64(), False, "seed of the attack"),
)

# In the order of records.parquet, where any other columns follow.
COLUMNS = {column.name: column for column in _TABLE}
TYPES = {column.name: column.type for column in _TABLE}

# Heading and meaning of the columns of measurements that attacks and listeners add.
MEASURES = {
    "var": ("Var", "variance of the perturbation divided by ε, over an image's values (SMIA21)"),
    "cos": ("cos", "mean cosine between consecutive updates of an image (SMIA21 Table 1)"),
    "positive_cosines": ("cos > 0", "share of these cosines above 0"),
    "psnr": ("PSNR", "peak signal-to-noise ratio of the adversarial image in dB; none for an unchanged image"),
    "ssim": ("SSIM", "structural similarity to the clean image, 1 if equal"),
    "brisque_clean": ("BRISQUE clean", "quality of the clean image without a reference, lower is better"),
    "brisque": ("BRISQUE", "the same of the adversarial image; none for a constant image"),
    "field_largest": ("max |B|", "largest value of the bias field, in natural logarithms of the image"),
    "field_roughness": ("roughness", "Laplacian norm of the bias field"),
    "targets": ("targets", "pixels or proposals that DAG was to turn"),
    "targets_left": ("targets left", "those of the targets that DAG has not turned"),
    "goal_share": ("goal share", "share of what a targeted attack on masks or boxes was to change, and has changed"),
    "grad_cam_overlap": ("Grad-CAM IoU", "overlap of what most moved the victim's answer before and after, 1 if equal"),
    "warp_folds": ("folds", "share of the image where the warp folds over"),
}

# Column of words: which of several attacks broke the image, for a worst case over attacks; null where none did.
BROKEN_BY = "broken_by"

# Columns that the self-checks read and no table shows: a value where an image raises a doubt, none elsewhere.
DOUBTS = {
    "broken_gradients": "backward passes whose gradient was not finite; its entries were replaced",
    "refused": "1 where the attack's image was not finite or left [0, 1] or its ball, and the clean one came back",
    "probability_outputs": "1 where the victim's outputs for the clean image look like probabilities, not like logits",
}

Kind = Literal["adversarial", "clean", "noisy", "signs"]
Judgement = Literal["before", "after", "success"]

# How well masks fit, for each foreground class.
MaskMeasure = Literal["jaccard", "dice", "hausdorff95"]
PIXEL_ACCURACY = ("pixel_accuracy_before", "pixel_accuracy_after")
FLIPPED_PIXELS = "flipped_pixels"

# Columns that are no measurements of an image: scores of detectors, how these were fitted, verdicts of judges, the
# victim's probabilities of labels and classes, how well its masks fit, and what an attack did to boxes, as regular
# expressions.
SCORE_PATTERNS = (
    *("^detector_.*$", "^fitted_.*$", "^judge_.*$", "^label_.*$", "^probability_\\d+_.*$"),
    *("^pixel_accuracy_(before|after)$", "^flipped_pixels$", "^(jaccard|dice|hausdorff95)_.*_(before|after)$"),
    *("^boxes_(lost|relabelled|invented)$", "^iou_(before|after)$"),
)

# Columns of words of victims that find boxes: lists in JSON, of true boxes and of detections before and after.
BOX_TEXTS = ("boxes_true", "boxes_before", "boxes_after")
# What is counted of them, in the columns boxes_lost, boxes_relabelled and boxes_invented.
BOX_CHANGES = ("lost", "relabelled", "invented")
DIRECTION_WEIGHTS = "direction_weights"


def columns_in_order(names: Iterable[str]) -> list[str]:
    """Names of columns in the order of records.parquet: the table's, then those of `MEASURES`, then all others by name.

    >>> columns_in_order(["judge_b_after", "ssim", "judge_a_after", "psnr", "l2", "schema"])
    ['schema', 'l2', 'psnr', 'ssim', 'judge_a_after', 'judge_b_after']
    """
    places = {name: place for place, name in enumerate((*COLUMNS, *MEASURES))}
    return sorted(names, key=lambda name: (places.get(name, len(places)), name))


def score_column(detector: str, fit: str, kind: Kind = "adversarial") -> str:
    """Column of a detector's scores.

    Args:
        detector: Name of the detector.
        fit: Attack that its classifier was fitted on; "same" for the judged attack itself.
        kind: Version of the image that is scored: besides the adversarial and the clean one, one with noise of the
            perturbation's length, and one with random signs.

    >>> score_column("kd", "bim"), score_column("kd", "bim", "noisy")
    ('detector_kd_bim', 'detector_kd_bim_noisy')
    """
    name = f"detector_{detector}_{fit}"
    return name if kind == "adversarial" else f"{name}_{kind}"


def threshold_column(detector: str, fit: str) -> str:
    """Column of the score above which a detector flags an image: the same in all records of an attack.

    >>> threshold_column("kd", "bim")
    'detector_kd_bim_threshold'
    """
    return f"detector_{detector}_{fit}_threshold"


def wrong_signs_column(detector: str, fit: str) -> str:
    """Column of the number of a detector's weights that take more suspicious measurements for less adversarial ones.

    >>> wrong_signs_column("lid", "bim")
    'detector_lid_bim_wrong_signs'
    """
    return f"detector_{detector}_{fit}_wrong_signs"


def fitted_positives_column(fit: str) -> str:
    """Column of the number of adversarial images that classifiers have learnt from.

    >>> fitted_positives_column("bim")
    'fitted_bim_positives'
    """
    return f"fitted_{fit}_positives"


# What follows the name of a fit in the names of columns, where another fit's name must not end.
FIT_SUFFIXES = ("_clean", "_noisy", "_signs", "_threshold", "_wrong_signs")


def judge_column(judge: str, what: Judgement) -> str:
    """Column of what another victim makes of the images.

    Args:
        judge: Name of the other victim.
        what: Whether it is right about the clean image (`before`), about the adversarial one (`after`), or whether the
            attack reached its aim with it (`success`).

    >>> judge_column("resnet", "after")
    'judge_resnet_after'
    """
    return f"judge_{judge}_{what}"


def label_names(names: Sequence[str]) -> list[str]:
    """How columns name labels: by letters, digits and underscores, and by their places where two would be equal.

    >>> label_names(["Pleural Effusion", "Mass"]), label_names(["a b", "a-b"])
    (['Pleural_Effusion', 'Mass'], ['0_a_b', '1_a_b'])
    """
    plain = [re.sub(r"\W", "_", name) for name in names]
    return plain if len(set(plain)) == len(plain) else [f"{place}_{name}" for place, name in enumerate(plain)]


def label_column(label: str, what: Literal["true", "before", "after"]) -> str:
    """Column of a label of which an image may have several.

    Args:
        label: Name of the label, as `label_names` gives it.
        what: Whether the image has it (`true`: 0, 1, or null where that is unknown), or the probability that the victim
            gives it in the clean image (`before`) or in the adversarial one (`after`).

    >>> label_column("Mass", "after")
    'label_Mass_after'
    """
    return f"label_{label}_{what}"


def probability_column(number: int, what: Literal["before", "after"]) -> str:
    """Column of the probability of a class, counted from 0, for the clean image (`before`) or the adversarial one.

    >>> probability_column(2, "after")
    'probability_2_after'
    """
    return f"probability_{number}_{what}"


def mask_column(measure: MaskMeasure, label: str, what: Literal["before", "after"]) -> str:
    """Column of how well the mask of one class fits the true one.

    Args:
        measure: Jaccard or Dice index, or the 95 % Hausdorff distance in pixels.
        label: Name of the class, as `label_names` gives it.
        what: The mask of the clean image (`before`) or of the adversarial one (`after`).

    >>> mask_column("jaccard", "left_lung", "after")
    'jaccard_left_lung_after'
    """
    return f"{measure}_{label}_{what}"


def layer_mean_column(layer: str, clean: bool = False) -> str:
    """Column of the mean of a layer's features, of the adversarial image or of the clean one.

    >>> layer_mean_column("network.layer4", clean=True)
    'mean_network_layer4_clean'
    """
    name = re.sub(r"\W", "_", layer)
    return f"mean_{name}_clean" if clean else f"mean_{name}"


def direction_column(attack: str, epsilon: float | None) -> str:
    """Column of the cosine between an attack's change of the features and that of an attack before it.

    Args:
        attack: Name of the attack before it.
        epsilon: Its radius, in units of the [0, 1] image range; None if it has none.

    >>> direction_column("bim", 1 / 255)
    'direction_bim_0.00392'
    """
    return f"direction_{attack}" if epsilon is None else f"direction_{attack}_{epsilon:.3g}"
