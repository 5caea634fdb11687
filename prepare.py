"""Get a dataset and verify it: ``python prepare.py NAME --root FOLDER``, or ``describe -c CONFIG``."""

from cli.start import main

if __name__ == "__main__":
    main("prepare")
