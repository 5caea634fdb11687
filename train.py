"""Fine-tune a victim: ``python train.py fit -c configs/victims/chest_xray.yaml --data.root FOLDER``."""

from cli.start import main

if __name__ == "__main__":
    main("train")
