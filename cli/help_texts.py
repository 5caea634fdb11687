"""What ``--help`` says of the programs and their subcommands, in place of what Lightning says of its own."""

from typing import Any

PROGRAMS = {
    "train.py": (
        "Fine-tune a medical-image model, which will be the victim of attacks. For example: "
        "python train.py fit -c configs/demo.yaml"
    ),
    "evaluate.py": (
        "Attack a fine-tuned model, let detectors watch, and write records and a report. For example: "
        "python evaluate.py test -c runs/demo/train.yaml -c configs/attacks/linf.yaml --ckpt_path best"
    ),
}
SUBCOMMANDS = {
    "fit": "Fine-tune a victim; its checkpoints and its configuration, train.yaml, go to the folder runs/NAME.",
    "validate": "Attack a victim on the split Val; records and report go to runs/NAME/validate.",
    "test": "Attack a victim on the split AdvTest, or another data.test_split; records and report go to "
    "runs/NAME/evaluate. With --data FILE, or data.test_split all, every image of other data is judged; results go to "
    "runs/NAME/evaluate_on/DATA. With --evaluation, results of any of these go to runs/NAME/evaluations/EVALUATION.",
    "replay": "Make one record of an evaluation again, for one image and one attack, and compare it with the one that "
    "is there; the run's folder stays as it is. For example: "
    "python evaluate.py replay runs/demo/evaluate --record KEY:ID.",
}
CONFIG = (
    "Configuration file in YAML. It may be given several times, and a later file overrides the earlier ones; an "
    "evaluation begins with the run's own, runs/NAME/train.yaml."
)
NONE = " Where a text below says None, write null."
OPTIONS = {
    "ckpt_path": "Checkpoint to load: best or last, those of the run's folder, or a path. To go on with a training, "
    "last; an evaluation needs one.",
    "verbose": "Print Lightning's own table of metrics, too.",
    "seed_everything": "Seed of a training, and of whatever has no seed of its own; true draws one.",
}


def explain_subcommand(parser: Any, subcommand: str) -> None:
    """Say of a subcommand what it does here, and of Lightning's options what they mean here."""
    parser.description = SUBCOMMANDS[subcommand] + NONE
    own = {action.dest for action in parser._actions} & {"ckpt_path"}
    for group in parser._action_groups:
        if own & {action.dest for action in group._group_actions} and group.title != "options":
            group.title = "Checkpoint"
    for action in parser._actions:
        if action.dest in OPTIONS:
            action.help = f"{OPTIONS[action.dest]} (type: %(type)s, default: %(default)s)"


def explain_choices(parser: Any) -> None:
    """Say in the list of a program's subcommands what each does."""
    for choice in parser._subcommands_action._choices_actions:
        choice.help = SUBCOMMANDS[choice.dest]
