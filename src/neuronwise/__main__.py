"""``python -m neuronwise`` is the command ``neuronwise``."""

from neuronwise.cli import main

if __name__ == "__main__":
    main()
