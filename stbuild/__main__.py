"""``python -m stbuild``."""

from stbuild.cli import main

if __name__ == "__main__":
    main()
