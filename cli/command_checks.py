"""What a command is refused for before anything is built: nothing to evaluate, or options that cannot be meant."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from cli.config_files import ConfigFile, line_of
from cli.runs import CONFIG

SUITE = "add a suite such as configs/attacks/linf.yaml with -c (the others are configs/attacks/*.yaml)"


def check_command(subcommand: str, config: Namespace, files: Sequence[ConfigFile], words: Sequence[str]) -> None:
    """Refuse a command that has nothing to evaluate, or whose options cannot be meant.

    Args:
        subcommand: ``fit``, ``validate`` or ``test``.
        config: Its options.
        files: The configuration files, in the order in which they were given.
        words: Words of the command line.

    Raises:
        ValueError: Says what is missing or wrong.
    """
    if subcommand == "fit":
        if config.evaluation is not None:
            raise ValueError(f"--evaluation names an evaluation, and fit is a training, got {config.evaluation!r}")
    else:
        check_attacks_given(config.attack.attacks, config.attack.fit_batches, files, words)
        limit = "limit_val_batches" if subcommand == "validate" else "limit_test_batches"
        if config.trainer[limit] == 0:
            raise ValueError(f"no batch is asked for: trainer.{limit} is 0, so that there is nothing to evaluate")
    if (clipped := config.trainer.gradient_clip_val) is not None and not clipped > 0:
        raise ValueError(f"trainer.gradient_clip_val is positive, or null to clip nothing, got {clipped}")


def check_attacks_given(
    attacks: Mapping[str, Any] | None, fit_batches: int, files: Sequence[ConfigFile], words: Sequence[str]
) -> None:
    """Refuse an evaluation without attacks, or with none but those that its training was configured with.

    Those are the attacks of a run's ``train.yaml``, and of any configuration with ``attack.fit_batches`` above 0, which
    attacks a few batches of each epoch; its attacks are small, and are there for that.

    Args:
        attacks: The configured attacks by name.
        fit_batches: Batches of each epoch that are attacked while fine-tuning; 0 where no attack watches a training.
        files: The configuration files, in the order in which they were given.
        words: Words of the command line.

    Raises:
        ValueError: There is no attack, or they come from such a configuration alone.
    """
    if not attacks:
        raise ValueError(f"no attack is configured: {SUITE}")
    if any(word.startswith(("--attack.attacks", "--attack=")) or word == "--attack" for word in words):
        return
    sections = [(file, file.content.get("attack")) for file in files]
    giving = [
        (file, section)
        for file, section in sections
        if isinstance(section, dict) and (section.get("attacks") or section.get("attacks+"))
    ]
    file, section = giving[-1] if giving else (None, {})
    if file is None or "attacks+" in section or file.content.get("ckpt_path"):
        return  # with a checkpoint it is the configuration that an evaluation has saved
    watched = bool(fit_batches and section.get("fit_batches"))
    if not watched and Path(file.path).name != CONFIG:
        return
    shown = ", ".join(map(str, attacks))
    replaced = [given.path for given, of in giving[:-1] if not of.get("fit_batches")]
    if watched and replaced:
        raise ValueError(
            f"{file.path} comes after {replaced[-1]} and replaces its attacks by {shown}, by which the training was "
            f"watched: give -c {file.path} first"
        )
    why = "by which the training was watched (attack.fit_batches)" if watched else "which the training was given"
    raise ValueError(
        f"{line_of([file], ('attack',), 'attacks')}no attack is given but {shown}, {why}: {SUITE}, or name these by "
        "--attack.attacks"
    )
