"""Phantom chest X-rays in the public layout: a dataset without a download."""

import glob
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.chest_xray import LAYOUT, SUFFIXES, ChestXRay
from datamodules.thorax import draw_anatomy, render

MARKER = "phantom.json"
VERSION = 1
QUALITY = 95


class PhantomChestXRay(ChestXRay):
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

    def prepare_data(self) -> None:
        """Generate the images unless they exist; a process that is killed leaves no half-written set.

        Raises:
            ValueError: The root is a file, or a folder with anything but a phantom set in it.
        """
        root = self.root.absolute()
        if self._complete(root):
            return
        if root.exists() and not root.is_dir():
            raise ValueError(f"{root}: expected a folder to generate a phantom set into, got a file")
        if root.exists() and any(root.iterdir()) and not (root / MARKER).is_file():
            raise ValueError(f"{root}: expected an empty folder or a phantom set (with {MARKER}), got other files")
        if root.exists() and (foreign := self._foreign(root)):
            raise ValueError(
                f"{root} is a phantom set of other parameters that also holds files of another origin, which "
                f"generating it anew would delete, first {foreign[0]}; move them away, or give another root"
            )
        root.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(root)
        owner = f"{socket.gethostname()}.{os.getpid()}"
        scratch = Path(tempfile.mkdtemp(prefix=f".{root.name}.{owner}.", dir=root.parent))
        try:
            fresh = scratch / "set"
            self._generate(fresh)
            if not self._complete(root):  # another process may have been faster
                if root.exists():
                    root.rename(scratch / "old")
                fresh.rename(root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def describe(self) -> dict[str, Any]:
        """Description of the data, ready for JSON, with the generator's parameters."""
        return super().describe() | {"generator": self.parameters()}

    def fingerprint(self, split: str) -> str:
        """16 hex digits as for every dataset, which also depend on the generator's parameters."""
        content = json.dumps([super().fingerprint(split), self.parameters()])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def _foreign(self, root: Path) -> list[str]:
        """Files under the root that generating the set which its marker describes would not have written."""
        try:
            marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
            patients, prevalence = int(marker["patients"]), float(marker["prevalence"])
        except (OSError, ValueError, KeyError, TypeError):
            patients, prevalence = self.patients, self.prevalence  # the best guess at what a damaged marker said
        written = {
            root / split / self.class_names[target] / name
            for target, patient, copies in people(patients, prevalence)
            for split, name in (file_of(target, patient, copy) for copy in range(1, copies + 1))
        }
        files = (path for path in root.rglob("*") if not path.is_dir() or path.is_symlink())
        return sorted(path.relative_to(root).as_posix() for path in files if path not in {*written, root / MARKER})

    def _complete(self, root: Path) -> bool:
        """Whether the root holds all images of these parameters."""
        try:
            marker = json.loads((root / MARKER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        images = sum(path.suffix in SUFFIXES for path in root.glob("*/*/*"))
        return bool(marker == self.parameters() | {"images": images, "layout": LAYOUT})

    def _generate(self, folder: Path) -> None:
        """Write all images, and the marker last."""
        for split in ("train", "val", "test"):
            for class_name in self.class_names:
                (folder / split / class_name).mkdir(parents=True)
        images = 0
        for target, patient, copies in people(self.patients, self.prevalence):
            anatomy = draw_anatomy(self._random(target, patient))
            for copy in range(1, copies + 1):
                pixels = render(anatomy, self._random(target, patient, copy), self.side, opacities=target == 1)
                split, name = file_of(target, patient, copy)
                encoded = cv2.imencode(".jpeg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
                (folder / split / self.class_names[target] / name).write_bytes(encoded.tobytes())
                images += 1
        marker = self.parameters() | {"images": images, "layout": LAYOUT}
        (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")

    def _random(self, *key: int) -> np.random.Generator:
        """The random stream of a patient (class, patient) or of an image (class, patient, copy)."""
        digest = hashlib.blake2b("/".join(map(str, (self.generator_seed, *key))).encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "big"))


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


def _remove_left(root: Path) -> None:
    """Remove the folders in which a process that was killed had begun to generate this set."""
    for folder in root.parent.glob(f".{glob.escape(root.name)}.*"):
        host, _, process = folder.name.removeprefix(f".{root.name}.").rpartition(".")[0].rpartition(".")
        if not folder.is_dir() or host != socket.gethostname() or not process.isdigit():
            continue  # perhaps another machine's, which may be at work
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, OverflowError):
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:
            pass
