"""``python -m sttrain``, for torchrun."""

from sttrain.cli import main

if __name__ == "__main__":
    main()
