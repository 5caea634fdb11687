"""How strong corruptions of each kind are, by modality and severity (MedMNIST-C)."""

from typing import Literal, TypeAlias, get_args

Modality: TypeAlias = Literal["xray", "ct", "fundus", "dermoscopy", "endoscopy"]
Kind: TypeAlias = Literal[
    "bias_field",
    "vignetting",
    "exposure_up",
    "exposure_down",
    "gamma_up",
    "gamma_down",
    "contrast_up",
    "contrast_down",
    "gaussian_blur",
    "defocus_blur",
    "motion_blur",
    "gaussian_noise",
    "speckle_noise",
    "shot_noise",
    "impulse_noise",
    "jpeg",
    "pixelation",
]
Strengths: TypeAlias = tuple[float, float, float, float, float]
SEVERITIES = (1, 2, 3, 4, 5)

# Noise, contrast, exposure, gamma, JPEG and pixelation have the numbers of MedMNIST-C's PneumoniaMNIST, OrganAMNIST,
# RetinaMNIST and DermaMNIST. Blur has another form here, and vignetting, bias fields and endoscopy are not in it: those
# numbers are ours.
LIGHT: dict[Kind, Strengths] = {
    "bias_field": (0.25, 0.5, 1.0, 1.5, 2.0),  # photographic stops
    "vignetting": (0.5, 1.0, 1.5, 2.0, 3.0),  # photographic stops lost in a corner
}
EXPOSURE_DOWN: Strengths = (0.9, 0.8, 0.7, 0.6, 0.5)  # factor
MOTION: Strengths = (8.0, 12.0, 16.0, 22.0, 30.0)  # pixels of 224
MODALITIES: dict[Modality, dict[Kind, Strengths]] = {
    "xray": {
        **LIGHT,
        "exposure_up": (1.1, 1.2, 1.3, 1.4, 1.5),
        "exposure_down": EXPOSURE_DOWN,
        "gamma_up": (1.1, 1.2, 1.3, 1.4, 1.6),  # exponent
        "gamma_down": (0.9, 0.8, 0.7, 0.6, 0.4),
        "contrast_up": (1.1, 1.2, 1.3, 1.4, 1.6),  # factor
        "contrast_down": (0.9, 0.8, 0.7, 0.6, 0.4),
        "gaussian_blur": (0.8, 1.1, 1.4, 1.7, 2.0),  # standard deviation, pixels of 224
        "gaussian_noise": (0.04, 0.05, 0.06, 0.07, 0.08),  # standard deviation
        "speckle_noise": (0.05, 0.07, 0.1, 0.15, 0.2),
        "shot_noise": (300, 200, 150, 100, 80),  # photons of white
        "impulse_noise": (0.005, 0.01, 0.013, 0.017, 0.02),  # share of the values
        "jpeg": (50, 30, 15, 10, 7),  # quality
        "pixelation": (0.8, 0.7, 0.6, 0.5, 0.4),  # share of a side
    },
    "ct": {
        "vignetting": LIGHT["vignetting"],
        "exposure_up": (1.2, 1.3, 1.4, 1.5, 1.6),
        "exposure_down": (0.8, 0.75, 0.7, 0.65, 0.6),
        "gamma_up": (1.3, 1.4, 1.6, 1.8, 2.0),
        "gamma_down": (0.9, 0.8, 0.7, 0.6, 0.4),
        "contrast_up": (1.3, 1.4, 1.6, 1.7, 1.8),
        "contrast_down": (0.8, 0.7, 0.6, 0.55, 0.5),
        "gaussian_blur": (2.0, 2.3, 2.6, 2.9, 3.5),
        "gaussian_noise": (0.04, 0.08, 0.12, 0.16, 0.2),
        "speckle_noise": (0.05, 0.1, 0.2, 0.3, 0.4),
        "shot_noise": (200, 100, 50, 25, 15),
        "impulse_noise": (0.01, 0.02, 0.03, 0.05, 0.08),
        "jpeg": (50, 30, 15, 10, 7),
        "pixelation": (0.7, 0.6, 0.5, 0.4, 0.35),
    },
    "fundus": {
        **LIGHT,
        "exposure_down": EXPOSURE_DOWN,
        "contrast_down": (0.9, 0.8, 0.7, 0.6, 0.4),
        "defocus_blur": (2.0, 3.0, 4.0, 5.0, 6.0),  # radius, pixels of 224
        "motion_blur": MOTION,  # length
        "gaussian_noise": (0.04, 0.08, 0.12, 0.16, 0.2),
        "speckle_noise": (0.1, 0.15, 0.2, 0.25, 0.3),
        "jpeg": (30, 25, 20, 10, 5),
        "pixelation": (0.8, 0.6, 0.5, 0.4, 0.35),
    },
    "dermoscopy": {
        **LIGHT,
        "exposure_up": (1.1, 1.2, 1.3, 1.4, 1.5),
        "exposure_down": EXPOSURE_DOWN,
        "contrast_up": (1.1, 1.2, 1.3, 1.4, 1.6),
        "contrast_down": (0.8, 0.7, 0.6, 0.5, 0.4),
        "defocus_blur": (2.0, 3.0, 4.0, 5.0, 6.0),
        "motion_blur": MOTION,
        "gaussian_noise": (0.04, 0.08, 0.12, 0.18, 0.26),
        "speckle_noise": (0.05, 0.15, 0.2, 0.35, 0.45),
        "shot_noise": (60, 25, 18, 10, 5),
        "impulse_noise": (0.01, 0.03, 0.06, 0.09, 0.17),
        "jpeg": (30, 20, 15, 10, 7),
        "pixelation": (0.7, 0.5, 0.4, 0.3, 0.25),
    },
    "endoscopy": {
        **LIGHT,
        "exposure_up": (1.1, 1.2, 1.3, 1.4, 1.5),
        "exposure_down": EXPOSURE_DOWN,
        "contrast_up": (1.1, 1.2, 1.3, 1.4, 1.6),
        "contrast_down": (0.9, 0.8, 0.7, 0.6, 0.4),
        "gamma_up": (1.1, 1.2, 1.3, 1.4, 1.6),
        "gamma_down": (0.9, 0.8, 0.7, 0.6, 0.4),
        "defocus_blur": (1.0, 2.0, 3.0, 4.0, 5.0),
        "motion_blur": MOTION,
        "gaussian_noise": (0.04, 0.08, 0.12, 0.16, 0.2),
        "shot_noise": (60, 25, 18, 10, 5),
        "jpeg": (50, 30, 15, 10, 7),
        "pixelation": (0.7, 0.6, 0.5, 0.4, 0.35),
    },
}


def strength_of(modality: Modality, kind: Kind, severity: int) -> float:
    """What a severity stands for, in the kind's own unit.

    Raises:
        ValueError: The severity is not from 1 to 5, or the modality has no such kind.

    >>> strength_of("xray", "jpeg", 1), strength_of("fundus", "jpeg", 5)
    (50.0, 5.0)
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality is one of {', '.join(MODALITIES)}, got {modality!r}")
    if kind not in MODALITIES[modality]:
        known = "" if kind in get_args(Kind) else ", and there is no such kind"
        raise ValueError(f"the kinds of {modality} are {', '.join(MODALITIES[modality])}, got {kind!r}{known}")
    if severity not in SEVERITIES or isinstance(severity, bool):
        raise ValueError(f"severity is a whole number from 1 to 5, got {severity}")
    return float(MODALITIES[modality][kind][severity - 1])
