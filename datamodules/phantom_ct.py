"""Phantom chest CT in the public layout of COVID-19 CT: volumes with masks of the lungs, without a download."""

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import nibabel
import numpy as np

from datamodules.chest_ct import draw_person, draw_slice
from datamodules.covid_ct import MASKS, PUBLISHED_WINDOW, SCANS, TABLE, CovidCT, Labels, Slices
from datamodules.generated import GeneratedSet
from datamodules.scene_cache import Cache
from datamodules.transforms import Augmentation

VERSION = 1
FOLDER = "../input/covid19-ct-scans"  # as the published table has it
FIELD, LENGTH = 380.0, 300.0  # mm across a slice, and from the lowest slice to the highest


class PhantomCT(GeneratedSet[Path], CovidCT):
    """Generated chest CT with masks of the left and the right lung, in Hounsfield units, written once.

    Persons differ in build, pose, diaphragm, heart, contrast of the vessels and noise. Lungs have vessels, and three
    quarters of the persons have infiltrations, ground glass or consolidations, which belong to the masks. The air of
    trachea, bronchi, stomach and surroundings does not, so that no threshold alone finds the lungs. A volume depends on
    the generator's seed, its number, the number of its slices and their size alone. Accuracies on phantoms say
    something about the code, nothing about medicine.

    Args:
        root: Folder to generate into: absent, empty, or an earlier phantom set, which is replaced if its parameters
            differ.
        volumes: Number of volumes, each of another person, at least 1.
        depth: Slices of a volume, from below the lungs to above them, at least 4.
        side: Pixels along each side of a slice, at least 32.
        generator_seed: Another seed gives other persons.
        window: As `CovidCT`.
        labels: As `CovidCT`.
        slices: As `CovidCT`.
        image_size: Side of the square images, in pixels.
        channels: 1 for grey, or 3 for networks that expect RGB.
        augment: As `CovidCT`.
        cache: As `MedicalDataModule`.
        **kwargs: As `MedicalDataModule`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "phantom_ct"
    layout = f"{TABLE}, {SCANS}/*.nii.gz, {MASKS}/*.nii.gz"
    pictures = f"{SCANS}/*"
    suffixes: ClassVar[tuple[str, ...]] = (".gz",)

    def __init__(
        self,
        root: str | Path,
        volumes: int = 24,
        depth: int = 24,
        side: int = 128,
        generator_seed: int = 0,
        window: tuple[float, float] = PUBLISHED_WINDOW,
        labels: Labels = "left_right",
        slices: Slices = "lung",
        image_size: int = 128,
        channels: Literal[1, 3] = 1,
        augment: bool | Augmentation = True,
        cache: Cache = "disk",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            root,
            window=window,
            labels=labels,
            slices=slices,
            image_size=image_size,
            channels=channels,
            augment=augment,
            cache=cache,
            **kwargs,
        )
        for argument, value, least in (("volumes", volumes, 1), ("depth", depth, 4), ("side", side, 32)):
            if value < least:
                raise ValueError(f"{argument} is at least {least}, got {value}")
        self.volumes = volumes
        self.depth = depth
        self.side = side
        self.generator_seed = generator_seed

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the generated files, as the marker file states it."""
        return {
            "phantom": "ct",
            "version": VERSION,
            "volumes": self.volumes,
            "depth": self.depth,
            "side": self.side,
            "generator_seed": self.generator_seed,
        }

    def written_files(self, parameters: Mapping[str, Any]) -> Iterator[str]:
        """The table, all volumes and their masks."""
        yield TABLE
        for number in range(1, int(parameters["volumes"]) + 1):
            yield f"{SCANS}/{file_name(number)}"
            yield f"{MASKS}/{file_name(number)}"

    def generate(self, folder: Path) -> None:
        """Write the table, all volumes and their masks."""
        (folder / SCANS).mkdir()
        (folder / MASKS).mkdir()
        lines = ["ct_scan,lung_mask,infection_mask,lung_and_infection_mask"]
        for number in range(1, self.volumes + 1):
            name = file_name(number)
            scan, mask = self.volume(number)
            (folder / SCANS / name).write_bytes(_nifti(scan))
            (folder / MASKS / name).write_bytes(_nifti(mask))
            lines.append(f"{FOLDER}/{SCANS}/{name},{FOLDER}/{MASKS}/{name},,")
        (folder / TABLE).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def volume(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """A volume in Hounsfield units and its mask, ``(side, side, depth)`` int16 and uint8, with the axes LAS."""
        person, random = draw_person(self.random(number)), self.random(number, 1)
        margin = random.uniform(0, 0.08, 2)  # how far below and above the lungs the scan goes
        heights = np.linspace(margin[0], 1 - margin[1], self.depth)
        drawn = [draw_slice(person, float(height), random, self.side) for height in heights]
        scan, mask = (np.stack([one[part].T[:, ::-1] for one in drawn], axis=2) for part in (0, 1))
        return np.rint(scan).astype(np.int16), mask


def file_name(number: int) -> str:
    """Name of the files of a volume, counted from 1."""
    return f"phantom_{number:03d}.nii.gz"


def _nifti(voxels: np.ndarray) -> bytes:
    """A gzipped NIfTI file, whose bytes are always the same."""
    across, up = FIELD / voxels.shape[0], LENGTH / voxels.shape[2]
    axes = np.diag([-across, across, up, 1.0])
    axes[:3, 3] = FIELD / 2, -FIELD / 2, 0
    return gzip.compress(nibabel.Nifti1Image(voxels, axes).to_bytes(), 6, mtime=0)
