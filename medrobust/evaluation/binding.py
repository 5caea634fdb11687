"""Whether victims have seen the images that they are judged on; an evaluation refuses what a victim has seen."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from medrobust.evaluation.data import EvaluationData
from medrobust.networks.seen_images import HashedData, SeenImages, TellsSeenImages
from medrobust.networks.victims import EvaluatedVictim

Seen = Literal["refuse", "report"]
SHOWN = 5  # images that a sentence names
PREPROCESSING = ("image_size", "resize")


def binding_of(
    victim: EvaluatedVictim, data: EvaluationData, split: str, others: Mapping[str, EvaluatedVictim]
) -> dict[str, Any] | None:
    """What is known of the images that the victims have seen, ready for JSON; part of the manifest.

    Args:
        victim: The victim under evaluation.
        data: The data.
        split: The split under evaluation.
        others: Judges and surrogates, by what they are.

    Returns:
        None for a victim that has no way to tell. Otherwise ``unknown`` (why nobody knows, or empty), ``images``,
        ``seen`` (number of images by the split that they were seen in: ``train``, or ``val`` unless that is the one
        under evaluation), ``examples`` (some of them, with the reason), ``differences`` (sentences about data that
        are not what they were in training), and ``others``, the same of each other victim.
    """
    if not isinstance(victim, TellsSeenImages):
        return None
    return {
        **_of_one(victim, data, split),
        "others": {
            name: _of_one(other, data, split) for name, other in others.items() if isinstance(other, TellsSeenImages)
        },
    }


def refuse_seen(binding: Mapping[str, Any] | None, split: str, seen: Seen) -> None:
    """Refuse images that the victim has seen in its training, unless that is what is asked for.

    Raises:
        ValueError: Names some of them, and says how many there are.
    """
    if binding is None or seen == "report" or not (counts := binding["seen"]):
        return
    where = " and ".join(f"{count} in {home.capitalize()}" for home, count in counts.items())
    images = "1 image" if binding["images"] == 1 else f"{binding['images']} images"
    raise ValueError(
        f"of the {images} of {split}, the victim has seen {where}: "
        + "; ".join(binding["examples"])
        + ("; ..." if sum(counts.values()) > SHOWN else "")
        + ". Take the splits that it was trained with (on a command line --splits run, or --data.split_file with the "
        "splits.csv of its run), or evaluate seen images on purpose with --attack.seen report"
    )


def _of_one(victim: TellsSeenImages, data: EvaluationData, split: str) -> dict[str, Any]:
    """What is known of one victim."""
    samples = data.splits[split]
    found: dict[str, Any] = {"unknown": "", "images": len(samples), "seen": {}, "examples": [], "differences": []}
    if not isinstance(data, HashedData):
        return found | {"unknown": f"{data.name} gives no hashes of its images"}
    known = victim.seen_images()
    if known is None:
        return found | {"unknown": "its checkpoint does not say what it was trained on"}
    hashes, counts = data.hashes(split), Counter[str]()
    for home in ("train",) if split == "val" else ("train", "val"):
        for sample, reason in zip(samples, known.reasons(home, hashes), strict=True):
            if reason:
                counts[home] += 1
                if counts.total() <= SHOWN:
                    found["examples"].append(f"{sample.id} ({reason})")
    return found | {"seen": dict(counts), "differences": _differences(known, data)}


def _differences(known: SeenImages, data: EvaluationData) -> list[str]:
    """Sentences about data that are not what the victim was trained on."""
    if not isinstance(data, HashedData):
        return []
    before, now = known.facts, {**data.describe(), "name": data.name}
    if before.get("name") != now["name"]:
        return [f"The victim was trained on {before.get('name')} and is evaluated on {now['name']}."]
    sentences = [
        f"The victim was trained with {fact} {before[fact]} and is evaluated with {now[fact]}."
        for fact in PREPROCESSING
        if fact in before and fact in now and before[fact] != now[fact]
    ]
    if "train" in data.splits and (changed := known.differences("train", data.hashes("train"))["changed"]):
        which, they = ("1 image of Train has", "it") if changed == 1 else (f"{changed} images of Train have", "them")
        sentences.append(f"{which} other content than when the victim was trained on {they}.")
    return sentences
