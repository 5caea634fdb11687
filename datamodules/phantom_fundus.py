"""Phantom fundus photographs in the public layouts of Kaggle-DR and APTOS 2019: graded sets without a download."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from datamodules.fundus import APTOS, GRADES, FundusDataModule, Grading, KaggleDR
from datamodules.fundus_view import draw_retina
from datamodules.generated import GeneratedSet
from datamodules.retina import render_fundus
from datamodules.retinopathy import draw_lesions

VERSION = 1
ASPECTS = (1.0, 1.15, 1.33, 1.5)  # of the cameras' pictures, width over height
SAME = 0.6  # share of the patients whose eyes have the same grade
EYES = ("left", "right")


class _GeneratedFundus(GeneratedSet[int], FundusDataModule):
    """Generated fundus photographs; a class that derives from it says in which layout they are written.

    Args:
        root: Folder to generate into.
        patients: Number of patients.
        prevalence: Share of the patients with retinopathy in the left eye.
        side: Height of the written images, in pixels.
        generator_seed: Another seed gives other patients.
        grading: As `FundusDataModule`.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    encoding: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self,
        root: str | Path,
        patients: int = 300,
        prevalence: float = 0.8,
        side: int = 160,
        generator_seed: int = 0,
        grading: Grading = "five",
        **kwargs: Any,
    ) -> None:
        super().__init__(root, grading=grading, **kwargs)
        if not 0 < prevalence < 1:
            raise ValueError(f"prevalence is a share above 0 and below 1, got {prevalence}")
        if side < 32:
            raise ValueError(f"side is at least 32 pixels, got {side}")
        self.patients = patients
        self.prevalence = prevalence
        self.side = side
        self.generator_seed = generator_seed
        if patients < 1 or len({self._grade(*eye) for eye in self.eyes(patients)}) < len(GRADES):
            raise ValueError(f"patients is large enough for eyes of every grade, got {patients}")

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the generated files, as the marker file states it."""
        return {
            "phantom": self.name.removeprefix("phantom_"),
            "version": VERSION,
            "patients": self.patients,
            "prevalence": self.prevalence,
            "side": self.side,
            "generator_seed": self.generator_seed,
        }

    @abstractmethod
    def eyes(self, patients: int) -> Iterator[tuple[int, int]]:
        """Patient, from 1, and eye, 0 for the left one, of each image."""

    @abstractmethod
    def image_name(self, patient: int, eye: int) -> str:
        """What the table calls an image."""

    @property
    @abstractmethod
    def suffix(self) -> str:
        """Suffix of the images."""

    def written_files(self, parameters: Mapping[str, Any]) -> Iterator[str]:
        """The table and all images."""
        yield self.public_table
        for eye in self.eyes(int(parameters["patients"])):
            yield f"{self.public_images}/{self.image_name(*eye)}{self.suffix}"

    def generate(self, folder: Path) -> None:
        """Write the table and all images."""
        (folder / self.public_images).mkdir()
        lines = [f"{self.columns['image'][0]},{self.columns['grade'][0]}"]
        for patient, eye in self.eyes(self.patients):
            grade, name = self._grade(patient, eye), self.image_name(patient, eye)
            retina = draw_retina(self.random(patient, eye), 1 if eye else -1, self.random(patient))
            random = self.random(patient, eye, grade)
            aspect = float(self.random(patient, len(EYES) + 1).choice(ASPECTS))
            pixels = render_fundus(retina, draw_lesions(random, grade), random, self.side, aspect)
            encoded = cv2.imencode(self.suffix, np.ascontiguousarray(pixels[..., ::-1]), self.encoding)[1]
            (folder / self.public_images / f"{name}{self.suffix}").write_bytes(encoded.tobytes())
            lines.append(f"{name},{grade}")
        (folder / self.public_table).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _grade(self, patient: int, eye: int) -> int:
        """Grade of an eye, which depends on the prevalence, the seed and the patient's number alone."""
        ill = int(patient * self.prevalence)
        left = 1 + (ill - 1) % (len(GRADES) - 1) if ill > int((patient - 1) * self.prevalence) else 0
        chance = self.random(patient, len(EYES))
        if eye == 0 or chance.random() < SAME:
            return left
        return int(np.clip(left + chance.choice([-1, 1]), 0, len(GRADES) - 1))


class PhantomFundus(_GeneratedFundus, KaggleDR):
    """Generated fundus photographs of both eyes of each patient, in Kaggle-DR's layout, written once under the root.

    The images have the structure of real ones (disc, arcades of arteries and veins, macula, choroid) and their
    nuisances (pigment, camera, illumination, haze, drusen, naevi, dust, noise). Lesions define the grade:
    microaneurysms, haemorrhages, exudates, cotton-wool spots, beaded veins, new vessels and preretinal haemorrhages, as
    the international clinical scale has them. An image depends on the generator's seed, its patient, its eye and its
    grade alone. Accuracies on phantoms say something about the code, nothing about medicine.

    Args:
        root: Folder to generate into: absent, empty, or an earlier phantom set, which is replaced if its parameters
            differ.
        patients: Number of patients, each with two images; enough for eyes of every grade.
        prevalence: Share of the patients with retinopathy in the left eye, above 0 and below 1; the grades 1 to 4 are
            equally frequent there, and the right eye has the same grade or the one above or below.
        side: Height of the written images, in pixels, at least 32; they are up to 1.5 times as wide.
        generator_seed: Another seed gives other patients.
        grading: As `KaggleDR`.
        **kwargs: As `KaggleDR`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "phantom_fundus"
    layout = "trainLabels.csv, train/ID_{left,right}.jpeg"
    pictures = "train/*"
    suffix = ".jpeg"
    encoding = (cv2.IMWRITE_JPEG_QUALITY, 95)

    def eyes(self, patients: int) -> Iterator[tuple[int, int]]:
        """Both eyes of every patient."""
        return ((patient, eye) for patient in range(1, patients + 1) for eye in (0, 1))

    def image_name(self, patient: int, eye: int) -> str:
        """Number of the patient, and the eye."""
        return f"{patient}_{EYES[eye]}"


class PhantomAPTOS(_GeneratedFundus, APTOS):
    """The phantoms of `PhantomFundus` in APTOS' layout, one eye of each patient, since its table names no patient.

    Args:
        root: Folder to generate into: absent, empty, or an earlier phantom set, which is replaced if its parameters
            differ.
        patients: Number of patients and images; enough for eyes of every grade.
        prevalence: Share of the patients with retinopathy, as `PhantomFundus`.
        side: Height of the written images, in pixels, at least 32; they are up to 1.5 times as wide.
        generator_seed: Another seed gives other patients.
        grading: As `APTOS`.
        **kwargs: As `APTOS`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "phantom_aptos"
    layout = "train.csv, train_images/ID.png"
    pictures = "train_images/*"
    suffix = ".png"

    def eyes(self, patients: int) -> Iterator[tuple[int, int]]:
        """The left or the right eye of every patient."""
        return ((patient, int(self.random(patient, len(EYES) + 2).integers(2))) for patient in range(1, patients + 1))

    def image_name(self, patient: int, eye: int) -> str:
        """Twelve hexadecimal digits, as in the public set."""
        return f"{patient * 0x9E3779B97F4B % 16**12:012x}"
