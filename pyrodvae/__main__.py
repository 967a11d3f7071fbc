"""``python -m pyrodvae``."""

import sys

from pyrodvae.cli import main

if __name__ == "__main__":
    sys.exit(main())
