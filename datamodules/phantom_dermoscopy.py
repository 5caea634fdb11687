"""Phantom dermoscopy in the public layout of HAM10000: seven diagnoses without a download."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.dermoscopy import DIAGNOSES, HAM10000, Classes
from datamodules.generated import GeneratedSet
from datamodules.skin import draw_lesion, render_skin

VERSION = 1
QUALITY = 95
TABLE = "HAM10000_metadata.csv"
IMAGES = "HAM10000_images_part_1"
MASKS = "HAM10000_segmentations_lesion_tschandl"
SEXES = ("female", "male")
PLACES = ("abdomen", "back", "chest", "face", "lower extremity", "trunk", "upper extremity")


class PhantomDermoscopy(GeneratedSet[int], HAM10000):
    """Generated dermoscopic images of skin lesions in seven classes, with the lesions' masks, written once.

    A lesion's border, symmetry, colours and structures make its class: the network of a nevus, the notched border and
    several colours of a melanoma, the vessels and blue nests of a basal cell carcinoma, the red net and scales of an
    actinic keratosis, the milia and ridges of a seborrhoeic one, the scar of a dermatofibroma, the lakes of a vascular
    lesion. Size, darkness, skin, hairs, light and noise do not depend on the class. Several images of a lesion show it
    in other views. An image depends on the generator's seed, its lesion and its number alone. Accuracies on phantoms
    say something about the code, nothing about medicine.

    Args:
        root: Folder to generate into: absent, empty, or an earlier phantom set, which is replaced if its parameters
            differ.
        lesions: Number of lesions, at least 7; the classes are equally frequent, every third lesion has two images and
            every ninth has three.
        side: Height of the written images, in pixels, at least 32; they are 4/3 as wide.
        generator_seed: Another seed gives other lesions.
        classes: As `HAM10000`.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "phantom_dermoscopy"
    layout = f"{TABLE}, {IMAGES}/*.jpg, {MASKS}/*_segmentation.png"
    pictures = f"{IMAGES}/*"

    def __init__(
        self,
        root: str | Path,
        lesions: int = 630,
        side: int = 128,
        generator_seed: int = 0,
        classes: Classes = "seven",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, classes=classes, **kwargs)
        if lesions < len(DIAGNOSES):
            raise ValueError(f"lesions is at least {len(DIAGNOSES)}, got {lesions}")
        if side < 32:
            raise ValueError(f"side is at least 32 pixels, got {side}")
        self.lesions = lesions
        self.side = side
        self.generator_seed = generator_seed

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the generated files, as the marker file states it."""
        return {
            "phantom": "dermoscopy",
            "version": VERSION,
            "lesions": self.lesions,
            "side": self.side,
            "generator_seed": self.generator_seed,
        }

    def written_files(self, parameters: Mapping[str, Any]) -> Iterator[str]:
        """The table, all images and their masks."""
        yield TABLE
        for lesion, copy in images_of(int(parameters["lesions"])):
            yield f"{IMAGES}/{image_name(lesion, copy)}.jpg"
            yield f"{MASKS}/{image_name(lesion, copy)}_segmentation.png"

    def generate(self, folder: Path) -> None:
        """Write the table, all images and their masks."""
        (folder / IMAGES).mkdir()
        (folder / MASKS).mkdir()
        lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
        for number, copy in images_of(self.lesions):
            random = self.random(number)
            kind, name = kind_of(number), image_name(number, copy)
            lesion = draw_lesion(random, kind)
            person = f"{random.integers(3, 18) * 5}.0,{random.choice(SEXES)},{random.choice(PLACES)}"
            pixels, mask = render_skin(lesion, self.random(number, copy), self.side)
            picture = cv2.imencode(
                ".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
            )[1]
            (folder / IMAGES / f"{name}.jpg").write_bytes(picture.tobytes())
            (folder / MASKS / f"{name}_segmentation.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
            lines.append(f"HAM_{number:07d},{name},{kind},phantom,{person}")
        (folder / TABLE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def images_of(lesions: int) -> Iterator[tuple[int, int]]:
    """Lesion and number, both from 1, of each image."""
    for lesion in range(1, lesions + 1):
        for copy in range(1, 2 + (lesion % 3 == 0) + (lesion % 9 == 0)):
            yield lesion, copy


def kind_of(lesion: int) -> str:
    """Diagnosis of a lesion."""
    return DIAGNOSES[(lesion - 1) % len(DIAGNOSES)]


def image_name(lesion: int, copy: int) -> str:
    """An image's name as in the public set."""
    return f"ISIC_{10 * lesion + copy:07d}"
