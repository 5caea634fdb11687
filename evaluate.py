"""Attack a victim: ``python evaluate.py test -c runs/NAME/train.yaml -c ATTACKS.yaml --ckpt_path best``."""

from cli.start import main

if __name__ == "__main__":
    main("evaluate")
