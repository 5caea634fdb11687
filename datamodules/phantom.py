"""Phantom chest X-rays in the public layout: a dataset without a download."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2

from datamodules.chest_xray import LAYOUT, SUFFIXES, ChestXRay
from datamodules.generated import GeneratedSet
from datamodules.thorax import draw_anatomy, render

VERSION = 1
QUALITY = 95


class PhantomChestXRay(GeneratedSet[int], ChestXRay):
    """Generated chest X-rays, normal or with the opacities of pneumonia, written once under the root.

    The images have the structure of real ones (thorax, lungs, ribs, clavicles, spine, heart, vessels) and their
    nuisances (exposure, pose, noise, haze, shadows of breasts and shoulder blades), so that no simple statistic tells
    the classes apart. An image depends on the generator's seed, its class, its patient and its number alone.
    Accuracies on phantoms say something about the code, nothing about medicine.

    Args:
        root: Folder to generate into: absent, empty, or an earlier phantom set, which is replaced if its parameters
            differ.
        patients: Number of patients, at least 4; every third has two images and every ninth has three.
        prevalence: Share of the patients with pneumonia, above 0 and below 1.
        side: Side of the written images, in pixels, at least 32.
        generator_seed: Another seed gives other patients.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "phantom_chest_xray"
    layout = LAYOUT
    pictures = "*/*/*"
    suffixes = SUFFIXES

    def __init__(
        self,
        root: str | Path,
        patients: int = 900,
        prevalence: float = 0.5,
        side: int = 128,
        generator_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if patients < 4:
            raise ValueError(f"patients is at least 4, got {patients}")
        if not 0 < prevalence < 1:
            raise ValueError(f"prevalence is a share above 0 and below 1, got {prevalence}")
        if side < 32:
            raise ValueError(f"side is at least 32 pixels, got {side}")
        self.patients = patients
        self.prevalence = prevalence
        self.side = side
        self.generator_seed = generator_seed

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the generated files, as the marker file states it."""
        return {
            "phantom": "chest_xray",
            "version": VERSION,
            "patients": self.patients,
            "prevalence": self.prevalence,
            "side": self.side,
            "generator_seed": self.generator_seed,
        }

    def written_files(self, parameters: Mapping[str, Any]) -> Iterator[str]:
        """The images of all patients."""
        for target, patient, copies in people(int(parameters["patients"]), float(parameters["prevalence"])):
            for copy in range(1, copies + 1):
                split, name = file_of(target, patient, copy)
                yield f"{split}/{self.class_names[target]}/{name}"

    def generate(self, folder: Path) -> None:
        """Write all images."""
        for split in ("train", "val", "test"):
            for class_name in self.class_names:
                (folder / split / class_name).mkdir(parents=True)
        for target, patient, copies in people(self.patients, self.prevalence):
            anatomy = draw_anatomy(self.random(target, patient))
            for copy in range(1, copies + 1):
                pixels = render(anatomy, self.random(target, patient, copy), self.side, opacities=target == 1)
                split, name = file_of(target, patient, copy)
                encoded = cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
                (folder / split / self.class_names[target] / name).write_bytes(encoded.tobytes())


def people(patients: int, prevalence: float) -> Iterator[tuple[int, int, int]]:
    """Class, number and number of images of each patient."""
    ill = min(max(round(patients * prevalence), 1), patients - 1)
    for target, number in ((0, patients - ill), (1, ill)):
        for patient in range(1, number + 1):
            yield target, patient, 1 + (patient % 3 == 0) + (patient % 9 == 0)


def file_of(target: int, patient: int, copy: int) -> tuple[str, str]:
    """Folder of the public layout's split, and name, of a patient's image."""
    split = {8: "val", 9: "test"}.get(patient % 10, "train")
    stem = f"person{patient}_bacteria_{copy}" if target else f"IM-{patient:04d}-{copy:04d}"
    return split, f"{stem}.jpeg"
