"""`python -m hvae_jax.cli`, for a source tree that is not installed."""

import sys

from hvae_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
