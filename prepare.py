"""Get a dataset and verify it: ``python prepare.py NAME --root FOLDER``."""

from cli.prepare import main

if __name__ == "__main__":
    main()
