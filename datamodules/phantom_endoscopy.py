"""Phantom endoscopy in the layout of EAD-2019: frames with seven kinds of artefacts and their true boxes."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from datamodules.artefacts import draw_artefacts
from datamodules.endoscopy import ARTEFACTS, CLASS_LIST, FOLDER, LAYOUT, Endoscopy
from datamodules.generated import GeneratedSet
from datamodules.mucosa import draw_organ, draw_view, photograph

VERSION = 1
QUALITY = 92
OF_A_VIDEO = 4  # frames
LEAST = 60  # frames: fewer videos leave splits empty


class PhantomEndoscopy(GeneratedSet[Path | None], Endoscopy):
    """Generated endoscopic frames with artefacts and their true boxes, in EAD-2019's layout, written once.

    Mucosa has folds around a lumen, vessels, pits, polyps, moist sheens and the field of view, light and writing of its
    endoscope. On it lie, in any number up to seven, specular spots, saturation, colour fringes and flakes of debris,
    blur, regions without light, groups of bubbles, and instruments; each box is the smallest around what the field of
    view shows of its artefact. Four frames are of one video, whose name they carry: they share the mucosa's colours and
    the endoscope, and show different places. An image depends on the generator's seed, its video and its number alone.
    Accuracies on phantoms say something about the code, nothing about medicine.

    Args:
        root: Folder to generate into: absent, empty, or an earlier phantom set, which is replaced if its parameters
            differ.
        frames: Number of frames, at least 60.
        clean: Share of the frames without any artefact, at least 0 and below 1.
        side: Height of the written frames, in pixels, at least 64; some are 5/4 as wide.
        generator_seed: Another seed gives other videos.
        **kwargs: As `Endoscopy`.

    Raises:
        ValueError: An argument lies outside its range.
    """

    name = "phantom_endoscopy"
    layout = LAYOUT
    pictures = f"{FOLDER}/*"

    def __init__(
        self,
        root: str | Path,
        frames: int = 900,
        clean: float = 0.08,
        side: int = 160,
        generator_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, **kwargs)
        if frames < LEAST:
            raise ValueError(f"frames is at least {LEAST}, got {frames}")
        if not 0 <= clean < 1:
            raise ValueError(f"clean is a share, at least 0 and below 1, got {clean}")
        if side < 64:
            raise ValueError(f"side is at least 64 pixels, got {side}")
        self.frames = frames
        self.clean = clean
        self.side = side
        self.generator_seed = generator_seed

    def parameters(self) -> dict[str, Any]:
        """Everything that determines the generated files, as the marker file states it."""
        return {
            "phantom": "endoscopy",
            "version": VERSION,
            "frames": self.frames,
            "clean": self.clean,
            "side": self.side,
            "generator_seed": self.generator_seed,
        }

    def written_files(self, parameters: Mapping[str, Any]) -> Iterator[str]:
        """The list of the classes, and all frames with their text files."""
        yield CLASS_LIST
        for number in range(int(parameters["frames"])):
            yield f"{FOLDER}/{frame_name(number)}.jpg"
            yield f"{FOLDER}/{frame_name(number)}.txt"

    def generate(self, folder: Path) -> None:
        """Write the list of the classes, and all frames with their text files."""
        (folder / FOLDER).mkdir()
        (folder / CLASS_LIST).write_text("\n".join(ARTEFACTS) + "\n", encoding="utf-8")
        for number in range(self.frames):
            pixels, boxes = self.draw(number)
            picture = cv2.imencode(
                ".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
            )[1]
            (folder / FOLDER / f"{frame_name(number)}.jpg").write_bytes(picture.tobytes())
            (folder / FOLDER / f"{frame_name(number)}.txt").write_text(boxes, encoding="utf-8")

    def draw(self, number: int) -> tuple[np.ndarray, str]:
        """A frame, uint8 ``(H, W, 3)`` with red first, and the lines of its text file."""
        video, random = number // OF_A_VIDEO, self.random(number // OF_A_VIDEO, number % OF_A_VIDEO)
        organ = draw_organ(self.random(video))
        view = draw_view(organ, random, self.side)
        image, boxes = (view.image, []) if random.random() < self.clean else draw_artefacts(view, random)
        height, width = view.field.shape
        lines = (
            f"{kind} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} {(x2 - x1) / width:.6f} "
            f"{(y2 - y1) / height:.6f}\n"
            for kind, x1, y1, x2, y2 in boxes
        )
        return photograph(view, image, organ, random), "".join(lines)


def frame_name(number: int) -> str:
    """A frame's name, which carries its video as in the public set."""
    return f"V{number // OF_A_VIDEO:04d}_{number % OF_A_VIDEO:05d}"
