"""Kvasir-SEG (Jha et al., MMM 2020): frames of colonoscopies with masks of the polyps."""

from typing import ClassVar

from datamodules.paired_masks import PairedMasks


class KvasirMasks(PairedMasks):
    """Kvasir-SEG (Jha et al., MMM 2020, arXiv:1911.07069): 1,000 frames with masks of the polyps.

    The public layout is ``images/*.jpg`` and ``masks/*.jpg`` with equal names; images may lie in
    ``trainingData_detection`` instead, beside their boxes, and masks may be PNG files. Nothing says which frames are of
    one patient, and each counts as one.

    Args:
        root: Folder of the dataset.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "kvasir_seg"
    class_names = ("background", "polyp")
    image_folders: ClassVar[tuple[str, ...]] = ("images", "trainingData_detection")
    mask_folder: ClassVar[str] = "masks"
