"""Broken configurations, each with the words that the one sentence about it has to contain."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DEMO, LINF = CONFIGS / "demo.yaml", CONFIGS / "attacks" / "linf.yaml"
MERGED = "settings: &settings {steps: 3, stpes: 4}\n"


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A command line with one mistake; it ends with exit status 2 and one sentence before any data is read.

    Args:
        what: The mistake.
        words: What the sentence contains.
        text: Content of ``wrong.yaml``, given after the demo's configuration; nothing is written if it is empty.
        arguments: Further arguments; ``CKPT`` stands for a checkpoint of the demo's victim.
        program: Which command.
        configs: Files before it.
        absent: What the sentence must not contain.
    """

    what: str
    words: tuple[str, ...]
    text: str | bytes = ""
    arguments: tuple[str, ...] = ()
    program: Literal["train", "evaluate"] = "evaluate"
    configs: tuple[Path, ...] = (DEMO,)
    absent: tuple[str, ...] = field(default=("help",))

    def command(self, folder: Path, checkpoint: Path) -> list[str]:
        """Write its file into the folder and return the arguments after the program's name."""
        files = [str(part) for config in self.configs for part in ("-c", config)]
        if self.text:
            content = self.text if isinstance(self.text, bytes) else self.text.encode()
            (folder / "wrong.yaml").write_bytes(content)
            files += ["-c", "wrong.yaml"]
        given = [argument.replace("CKPT", str(checkpoint)) for argument in self.arguments]
        if self.program == "evaluate" and "--ckpt_path" not in given:
            given = ["--ckpt_path", str(checkpoint), *given]
        if self.program == "evaluate" and "fit_batches" not in str(
            self.text
        ):  # by the attack that watches the training
            given = ["--attack.fit_batches", "0", *given]
        return ["fit" if self.program == "train" else "test", "--trainer.logger=false", *files, *given]


def attack(fields: str, name: str = "mine") -> str:
    """A file with one attack; the attack itself stands in line 3."""
    return f"attack:\n  attacks:\n    {name}: {fields}\n"


def option(what: str, *words: str, arguments: tuple[str, ...], **more: object) -> Broken:
    """A mistake on the command line."""
    return Broken(what=what, words=words, arguments=arguments, **more)  # type: ignore[arg-type]


def file(what: str, *words: str, text: str | bytes, line: int | None = None, **more: object) -> Broken:
    """A mistake in ``wrong.yaml``, whose sentence names the file and, where it is known, the line."""
    place = ("wrong.yaml",) if line is None else (f"wrong.yaml, line {line}",)
    return Broken(what=what, words=(*place, *words), text=text, **more)  # type: ignore[arg-type]


KEYS = (
    file("top-level key", "atack", "did you mean attack", text="atack: {epsilons: [1/255]}\n", line=1),
    file(
        "key in an own section", "attack.atacks", "did you mean attack.attacks", text="attack:\n  atacks: {}\n", line=2
    ),
    file("key of the trainer", "max_epohcs", "max_epochs", text="trainer:\n  max_epohcs: 3\n", line=2),
    file("key beside init_args", "init_arg", text="model:\n  init_arg: {backbone: resnet18}\n", line=2),
    file("option of the model", "bakbone", "backbone", text="model:\n  init_args:\n    bakbone: resnet18\n", line=3),
    file("option of the data", "imagesize", "image_size", text="data:\n  init_args:\n    imagesize: 3\n", line=3),
    file(
        "option of an attack",
        "PGD",
        "stpes",
        "steps",
        text=attack("\n      class_path: PGD\n      init_args:\n        stpes: 3"),
        line=6,
    ),
    file(
        "option of an objective",
        "Margin",
        "kapa",
        "kappa",
        line=6,
        text=attack(
            "\n      class_path: PGD\n      init_args:\n        objective: {class_path: Margin, init_args: {kapa: 3}}"
        ),
    ),
    file("class_path misspelt", "clas_path", text=attack("{clas_path: PGD}"), line=3),
    file("init_args misspelt", "init_agrs", text=attack("{class_path: PGD, init_agrs: {steps: 3}}"), line=3),
    file(
        "option of a detector",
        "KernelDensity",
        "bandwith",
        "bandwidth",
        line=1,
        text="detection: {detectors: {kd: {class_path: KernelDensity, init_args: {bandwith: 3}}}}\n",
    ),
    file(
        "option of a callback",
        "AttackProgress",
        "refresh",
        line=3,
        text="trainer:\n  callbacks+:\n    - {class_path: callbacks.AttackProgress, init_args: {refresh: 3}}\n",
    ),
    file(
        "option of the optimizer",
        "AdamW",
        "lrr",
        text="model:\n  init_args:\n    optimizer: {class_path: torch.optim.AdamW, init_args: {lrr: 0.1}}\n",
        line=3,
    ),
    file("settings without init_args", "steps", "init_args", text=attack("{class_path: PGD, steps: 3}"), line=3),
    file("attacks one level too high", "mine", text="attack:\n  mine: {class_path: PGD}\n", line=2),
    file("attacks at the top level", "attacks", "attack.attacks", text="attacks: {mine: {class_path: PGD}}\n", line=1),
    file(
        "epsilons inside attacks",
        "epsilons",
        text="attack:\n  attacks:\n    mine: {class_path: PGD}\n    epsilons: [1/255]\n",
        line=4,
    ),
    file("a subcommand's name around all", "test", text="test:\n  name: x\n", line=1),
    file("a dotted key", "attack.epsilons", text="attack.epsilons: [1/255]\n", line=1),
)

CLASSES = (
    file("unknown attack", "PDG", "did you mean PGD", text=attack("{class_path: PDG}"), line=3),
    file(
        "unknown optimizer",
        "AdamX",
        text="model:\n  init_args:\n    optimizer: {class_path: torch.optim.AdamX}\n",
        line=3,
    ),
    file("unknown optimizer without its package", "AdamX", text="model:\n  init_args:\n    optimizer: AdamX\n", line=3),
    option("unknown optimizer as an option", "AdamX", arguments=("--model.optimizer", "AdamX"), program="train"),
    file(
        "unknown objective",
        "Margins",
        "did you mean Margin",
        line=3,
        text=attack("{class_path: PGD, init_args: {objective: {class_path: Margins}}}"),
    ),
    file("unknown model", "Clasifier", "did you mean Classifier", text="model: {class_path: Clasifier}\n", line=1),
    file("unknown data", "ChestXray", "did you mean ChestXRay", text="data: {class_path: ChestXray}\n", line=1),
    file(
        "unknown callback",
        "EarlyStoping",
        "did you mean EarlyStopping",
        text="trainer:\n  callbacks+:\n    - class_path: EarlyStoping\n",
        line=3,
    ),
    file("unknown module", "my_attack.Checker", "PYTHONPATH", text=attack("{class_path: my_attack.Checker}"), line=3),
    file(
        "unknown class of our package",
        "medrobust.attacks.PDG",
        text=attack("{class_path: medrobust.attacks.PDG}"),
        line=3,
    ),
    file(
        "a detector as attack",
        "KernelDensity is a detector",
        "an attack is expected",
        text=attack("{class_path: medrobust.detectors.KernelDensity}"),
        line=3,
    ),
    file(
        "a detector as attack, by its name",
        "KernelDensity is a detector",
        "an attack is expected",
        text=attack("{class_path: KernelDensity}"),
        line=3,
    ),
    file(
        "an attack as detector",
        "PGD is an attack",
        "a detector is expected",
        text="detection: {detectors: {kd: {class_path: PGD}}}\n",
        line=1,
    ),
    file(
        "an attack as objective",
        "PGD is an attack",
        "an objective is expected",
        text=attack("{class_path: PGD, init_args: {objective: {class_path: PGD}}}"),
        line=3,
    ),
    file(
        "an attack as callback",
        "PGD is an attack",
        "a callback is expected",
        text="trainer:\n  callbacks+:\n    - class_path: PGD\n",
        line=3,
    ),
    file(
        "data as model",
        "PhantomChestXRay is a data module",
        "a victim is expected",
        text="model: {class_path: PhantomChestXRay}\n",
        line=1,
    ),
    file(
        "a model as data",
        "Classifier is a victim",
        "a data module is expected",
        text="data: {class_path: Classifier}\n",
        line=1,
    ),
    file(
        "a function as class",
        "os.path.join is not an attack",
        text=attack("{class_path: os.path.join}"),
        line=3,
    ),
    file("an abstract class", "Attack", text=attack("{class_path: medrobust.attacks.Attack}"), line=3),
    file("no class", "mine", "class_path", text=attack("{init_args: {steps: 3}}"), line=3),
    file("empty class", "mine", text=attack("{class_path: ''}"), line=3),
    file("null class", "mine", text=attack("{class_path: null}"), line=3),
    file("an attack that is null", "mine", text=attack("null"), line=3),
    file("an attack that is a number", "mine", text=attack("3"), line=3),
    file("attacks as a list", "attack.attacks", "mapping", text="attack:\n  attacks: [{class_path: PGD}]\n", line=2),
    file(
        "callbacks as a mapping",
        "callbacks",
        text="trainer:\n  callbacks: {class_path: AttackProgress, x: 3}\n",
        line=2,
    ),
)

VALUES = (
    file(
        "radius in 255ths",
        "epsilon",
        "got 8",
        "8/255",
        text=attack("{class_path: PGD, init_args: {epsilon: 8}}"),
        line=3,
    ),
    file(
        "negative radius", "epsilon", "got -0.1", text=attack("{class_path: PGD, init_args: {epsilon: -0.1}}"), line=3
    ),
    file(
        "radius that is no number",
        "epsilon",
        "got nan",
        text=attack("{class_path: PGD, init_args: {epsilon: .nan}}"),
        line=3,
    ),
    file("fraction by zero", "epsilon", "1/0", text=attack("{class_path: PGD, init_args: {epsilon: 1/0}}"), line=3),
    file(
        "fraction of words",
        "epsilon",
        "eight/255",
        text=attack("{class_path: PGD, init_args: {epsilon: eight/255}}"),
        line=3,
    ),
    file("fraction with two bars", "1/2/3", text="attack:\n  epsilons: [1/2/3]\n", line=2),
    file("radius null", "epsilon", text=attack("{class_path: PGD, init_args: {epsilon: null}}"), line=3),
    file("one radius for a list", "epsilons", "1/255", "list", text="attack:\n  epsilons: 1/255\n", line=2),
    file("a list of lists", "epsilons", text="attack:\n  epsilons: [[1/255]]\n", line=2),
    file("words for steps", "steps", "many", text=attack("{class_path: PGD, init_args: {steps: many}}"), line=3),
    file("no steps", "steps", "got 0", text=attack("{class_path: PGD, init_args: {steps: 0}}"), line=3),
    file("a fraction of a step", "steps", "2.5", text=attack("{class_path: PGD, init_args: {steps: 2.5}}"), line=3),
    file(
        "yes for text",
        "stabilization",
        "got 'True'",
        text=attack("{class_path: SMIA, init_args: {stabilization: yes}}"),
        line=3,
    ),
    file("one of few words", "goals", "nxt", "next", text="attack:\n  goals: nxt\n", line=2),
    file("number for a switch", "controls", "2", text="attack:\n  controls: 2\n", line=2),
    file("negative batches", "fit_batches", "-1", text="attack:\n  fit_batches: -1\n"),
    file("precision", "precision", "16", text="attack:\n  precision: 16\n", line=2),
    file("side of images", "image_size", "big", text="data:\n  init_args:\n    image_size: big\n", line=3),
    file(
        "share beyond 1",
        "label_smoothing",
        "got 2",
        text="model:\n  init_args:\n    label_smoothing: 2\n",
        program="train",
        line=3,
    ),
    file(
        "network that timm does not have",
        "resnet1000",
        text="model:\n  init_args:\n    backbone: resnet1000\n",
        program="train",
        line=3,
    ),
    file("a mapping for a number", "max_epochs", text="trainer:\n  max_epochs: {a: 1}\n", line=2),
    file("words for epochs", "max_epochs", "ten", text="trainer:\n  max_epochs: ten\n", line=2),
    file("negative epochs", "max_epochs", "-3", text="trainer:\n  max_epochs: -3\n", program="train", line=2),
    file("negative devices", "devices", "-2", text="trainer:\n  devices: -2\n", program="train", line=2),
    file("no device", "devices", "0", text="trainer:\n  devices: 0\n", program="train"),
    file(
        "an accelerator that does not exist",
        "accelerator",
        "gpuu",
        text="trainer:\n  accelerator: gpuu\n",
        program="train",
    ),
    file("a strategy that does not exist", "strategy", "dpp", text="trainer:\n  strategy: dpp\n", program="train"),
    file("a number as the seed's word", "seed_everything", "often", text="seed_everything: often\n", line=1),
    file("a trainer precision", "precision", "17", text="trainer:\n  precision: 17\n", program="train"),
    file("data null", "data", text="data: null\n", line=1),
    file("model null", "model", text="model: null\n", line=1),
    file("trainer as text", "trainer", "fast", text="trainer: fast\n", line=1),
    file("attack as text", "attack", "PGD", text="attack: PGD\n", line=1),
)

FILES = (
    file(
        "a key twice at the top",
        "attack",
        "line 1",
        text="attack: {epsilons: [1/255]}\nname: x\nattack: {goals: next}\n",
        line=3,
    ),
    file(
        "an attack twice",
        "pgd",
        "line 3",
        line=5,
        text=attack("PGD", "pgd") + "    bim: {class_path: BIM}\n    'pgd': {class_path: MIM}\n",
    ),
    file("an option twice", "steps", line=3, text=attack("{class_path: PGD, init_args: {steps: 3, steps: 4}}")),
    file("a merge key twice", "<<", line=5, text="x: &a {p: 1}\ny: &b {q: 1}\nname:\n  <<: *a\n  <<: *b\n"),
    file(
        "a merge with a misspelt option",
        "stpes",
        line=3,
        text=attack("{class_path: PGD, init_args: &s {stpes: 3}}") + "    b: {class_path: BIM, init_args: {<<: *s}}\n",
    ),
    file("an anchor's own key", "settings", line=1, text=MERGED + attack("{class_path: PGD, init_args: *settings}")),
    file("an alias without anchor", "settings", line=3, text=attack("{class_path: PGD, init_args: *settings}")),
    file("a number as an attack's name", "1", "text", text=attack("{class_path: PGD}", "1"), line=3),
    file("no as an attack's name", "no", "text", text=attack("{class_path: PGD}", "no"), line=3),
    file("null as an attack's name", "text", text=attack("{class_path: PGD}", "~"), line=3),
    file("a list as a name", text=attack("{class_path: PGD}", "[a, b]"), line=3),
    file("an empty name", text=attack("{class_path: PGD}", "''"), line=3),
    option("numbers as names in an option", "1", "text", arguments=("--attack.attacks", "{1: {class_path: PGD}}")),
    file("the control's name", "noise", "control", text=attack("{class_path: PGD}", "noise"), line=3),
    file("tab as indentation", "tab", text="attack:\n\tepsilons: [1/255]\n", line=2),
    file("unclosed bracket", "not valid YAML", text="attack: {epsilons: [1/255}\n", line=1),
    file("wrong indentation", "not valid YAML", text="attack:\n  goals: next\n epsilons: [1/255]\n", line=3),
    file("an unquoted colon", "not valid YAML", text="name: a: b\n", line=1),
    file("two documents", "one document", text="name: a\n---\nname: b\n", line=2),
    file("a Python object", "python/object", text="name: !!python/object/apply:os.getcwd []\n", line=1),
    file("an unknown tag", "!mine", text="name: !mine x\n", line=1),
    file("nothing but a comment", "is empty", text="# later\n"),
    file("an empty file", "is empty", text=b" "),
    file("a list", "list", "mapping", text="- name: x\n"),
    file("bare text", "mapping", text="hello\n"),
    file("binary", "UTF-8", text=b"\x89PNG\r\n\x1a\n\x00\xff"),
    file("control characters", "not valid YAML", text=b"name: a\x00b\n"),
    file("UTF-16", "UTF-8", text="name: x\n".encode("utf-16")),
    option("a missing file", "gone.yaml", "no configuration file", arguments=("-c", "gone.yaml")),
    option("a folder", "directory", arguments=("-c", ".")),
    option("a file without its option", "wrong.yaml", "-c", arguments=("wrong.yaml",)),
    option("-c without a file", "-c", "expected", arguments=("-c",)),
)

OPTIONS = (
    option("unknown option", "nme", "name", arguments=("--nme", "x")),
    option("atack", "atack", "attack.epsilons", arguments=("--atack.epsilons", "[0.1]")),
    option("unknown section", "atack", arguments=("--atack", "x")),
    option("unknown option of an attack", "epsilo", "epsilon", arguments=("--attack.attacks.fgsm.epsilo", "0.1")),
    option("option of an attack that is not there", "pgd", arguments=("--attack.attacks.pgd.epsilon", "0.1")),
    option("shortened option", "max_epoch", "max_epochs", arguments=("--trainer.max_epoch", "3")),
    option("missing value", "name", arguments=("--name",)),
    option("one hyphen", "-name", arguments=("-name", "x")),
    option("a word too many", "linf", arguments=("linf",)),
    option("words for a number", "batch_size", "many", arguments=("--data.batch_size", "many")),
    option("8 in a sweep", "epsilons", "8/255", arguments=("--attack.epsilons", "[8]")),
    option("a sweep of words", "epsilons", arguments=("--attack.epsilons", "one")),
    option(
        "missing weights",
        "no file gone.safetensors",
        arguments=("--model.weights", "gone.safetensors"),
        program="train",
    ),
    option("missing checkpoint", "no checkpoint gone.ckpt", arguments=("--ckpt_path", "gone.ckpt")),
    option("a run's name that leaves the folder", "name", "../../x", arguments=("--name", "../../x")),
    option("a run's name with a way up inside", "name", "a/../../x", arguments=("--name", "a/../../x")),
    option("an absolute name", "name", "/tmp/x", arguments=("--name", "/tmp/x")),
    option("the folder itself as name", "name", "'.'", arguments=("--name", ".")),
    option("no name", "needs a name", arguments=("--name=",)),
    option("a name of a space", "name", arguments=("--name= ",)),
    file("a name that leaves the folder", "../x", text="name: ../x\n"),
    option("no attack", "no attack is configured", arguments=("--attack.attacks", "{}")),
    option(
        "devices that the machine lacks",
        "devices",
        arguments=("--trainer.devices", "5", "--trainer.accelerator", "gpu"),
        program="train",
    ),
    option(
        "radii without an attack that has one",
        "epsilons",
        "deepfool",
        arguments=("--attack.attacks", "{deepfool: {class_path: DeepFool}}", "--attack.epsilons", "[0.1]"),
    ),
    option(
        "radii of the image range for logarithms",
        "log_epsilons",
        "log",
        "natural logarithm",
        arguments=(
            "--attack.attacks",
            "{log: {class_path: LogDomain}, pgd: {class_path: PGD}}",
            "--attack.epsilons",
            "[0.1]",
        ),
    ),
    file(
        "a radius for an attack that has none",
        "CWL2",
        "epsilon",
        "no radius",
        line=3,
        text=attack("{class_path: CWL2, init_args: {epsilon: 8/255}}"),
    ),
    file(
        "a radius for DeepFool",
        "DeepFool",
        "epsilon",
        "no radius",
        line=3,
        text=attack("{class_path: DeepFool, init_args: {epsilon: 8/255}}"),
    ),
)

FURTHER = (
    file("a number as the run's name", "name", "1", text="name: 1\n", line=1),
    file("an empty section", "attack", text="attack:\n", line=1),
    file("no radius at all", "epsilons", "got []", text="attack:\n  epsilons: []\n", line=2),
    file("detectors as a list", "detectors", "mapping", text="detection:\n  detectors: [Mahalanobis]\n", line=2),
    file(
        "a number as a detector's name",
        "text",
        text="detection:\n  detectors:\n    2: {class_path: Mahalanobis}\n",
        line=3,
    ),
    file("a split that does not exist", "test_split", "tst", text="data:\n  init_args:\n    test_split: tst\n", line=3),
    file("a negative seed", "seed_everything", "-1", text="seed_everything: -1\n", line=1),
    file("half an epoch", "max_epochs", "1.5", text="trainer:\n  max_epochs: 1.5\n", line=2),
    file(
        "a network as optimizer",
        "torch.nn.Linear",
        "Optimizer",
        text="model:\n  init_args:\n    optimizer: {class_path: torch.nn.Linear}\n",
        line=3,
    ),
    file(
        "more terms than weights",
        "one weight for each term",
        text=attack(
            "{class_path: PGD, init_args: {objective: {class_path: WeightedSum, "
            "init_args: {terms: [{class_path: Margin}], weights: [1, 2]}}}}"
        ),
        line=3,
    ),
    file("an anchor inside itself", "mine", text="attack: &a {attacks: {mine: *a}}\n", line=1),
    file("a negative side", "image_size", "-3", text="data:\n  init_args:\n    image_size: -3\n", line=3),
    file("batches of nothing", "batch_size", "0", text="data:\n  init_args:\n    batch_size: 0\n", line=3),
    file("a logger that does not exist", "Wandb", text="trainer:\n  logger: {class_path: Wandb}\n", line=2),
    file("a word for a class's settings", "init_args", text=attack("{class_path: PGD, init_args: steps}"), line=3),
    file(
        "a class that changes in attacks+",
        "fgsm cannot turn FGSM into PGD",
        text="attack:\n  attacks+:\n    fgsm: {class_path: PGD}\n",
        line=3,
    ),
    file(
        "a change of an attack that is not there",
        "pgd",
        "no earlier file",
        text="attack:\n  attacks+:\n    pgd: {init_args: {steps: 3}}\n",
        line=3,
    ),
    file("changes and replacements", "attacks+", text="attack:\n  attacks+: {}\n  attacks: {}\n"),
    file(
        "a kernel without a centre",
        "kernel",
        "got 4",
        text=attack("{class_path: SMIA, init_args: {kernel: 4}}"),
        line=3,
    ),
    option("two names for radii", "epsilon", arguments=("--attack.epsilon", "[0.1]")),
    option("a subcommand's option of the other program", "nosuch", arguments=("--nosuch=3",), program="train"),
    option("no checkpoint", "no checkpoint is given", arguments=("--ckpt_path", "null")),
    option("a checkpoint that is a folder", "no checkpoint", arguments=("--ckpt_path", ".")),
)

DEFENCES = (
    file(
        "a defence that does not exist",
        "Tradse",
        "did you mean Trades?",
        text="defence:\n  class_path: Tradse\n",
        program="train",
        line=2,
    ),
    file(
        "an input defence that does not exist",
        "'BitDept'",
        "did you mean BitDepth?",
        text="attack:\n  input_defence: {class_path: BitDept}\n",
        line=2,
    ),
    option(
        "a defence without its attack", "defence: Mart needs attack", arguments=("--defence=Mart",), program="train"
    ),
    option(
        "a label that no attack turns",
        "label 'Mass' is turned by targeted attacks",
        arguments=("--attack.label=Mass",),
        configs=(DEMO, LINF),
    ),
    option(
        "the smallest AUROC as the best",
        "val/auroc is better the larger it is",
        "give the mode 'max'",
        arguments=("--checkpoint.monitor=val/auroc",),
        program="train",
    ),
    option(
        "a stop where robustness grows",
        "val/robust_accuracy",
        "mode of EarlyStopping is 'min'",
        arguments=("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/robust_accuracy"),
        program="train",
    ),
    option(
        "gradients clipped to less than nothing",
        "gradient_clip_val is positive",
        "got -1",
        arguments=("--trainer.gradient_clip_val=-1",),
        program="train",
    ),
    option(
        "a graph of two grades",
        "at least 3 grades",
        arguments=("--model.init_args.head=label_graph",),
        program="train",
    ),
)

BROKEN = (*KEYS, *CLASSES, *VALUES, *FILES, *OPTIONS, *FURTHER, *DEFENCES)
