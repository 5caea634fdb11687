"""HAM10000's masks: where in a dermoscopic image the lesion is."""

import dataclasses
from pathlib import Path

from datamodules.dermoscopy import DX, diagnosis_of, ham_table_and_images
from datamodules.paired_masks import BinaryMasks, tell_unused
from datamodules.samples import Sample
from datamodules.tables import ImageFiles, Labelled, Row, read_table, samples_of_rows

MASKS = "HAM10000_segmentations_lesion_tschandl"
ENDING = "_segmentation"


class HAM10000Masks(BinaryMasks):
    """HAM10000 (Tschandl et al., Scientific Data 2018) with the lesions' masks (Tschandl et al., Nature Medicine 2020).

    The public layout is that of `HAM10000`, with ``HAM10000_segmentations_lesion_tschandl/*_segmentation.png`` beside.
    Splits are by lesion, of which many have several images, and balanced by diagnosis.

    Args:
        root: Folder of the dataset.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "ham10000_masks"
    class_names = ("background", "lesion")

    def index(self) -> list[Sample[Path]]:
        """All samples that the table names, sorted by id; no image is read.

        Raises:
            FileNotFoundError: The table, the folders of images or the folder of masks does not exist.
            ValueError: The table has a wrong row, or an image no mask; the message names the file and the row.
        """
        root = self.root.absolute()
        table, folders = ham_table_and_images(root)
        if not (root / MASKS).is_dir():
            raise FileNotFoundError(f"{root}: expected the masks in {MASKS}, found no such folder")
        rows = read_table(table, {"image": ("image_id",), "lesion": ("lesion_id",), **DX}, refuse=self.refuse_row)
        images, masks = ImageFiles(root, folders), ImageFiles(root, [root / MASKS], (".png",))

        def label(row: Row) -> Labelled[Path]:
            diagnosis_of(row)
            name = f"{images.stem(row.cells['image'])}{ENDING}"
            try:
                return Labelled(root / masks.find(name), row.cells["lesion"])
            except ValueError as error:
                raise ValueError(str(error).replace("image", "mask", 1)) from None

        samples = samples_of_rows(rows, images, label, self.refuse_row)
        strata = {images.stem(row.cells["image"]): row.cells["dx"].casefold() for row in rows}
        tell_unused(root, [id for stem, id in masks.ids.items() if stem.removesuffix(ENDING) not in images.ids])
        return [dataclasses.replace(sample, stratum=strata[sample.path.stem]) for sample in samples]
