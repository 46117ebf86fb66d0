"""`hvae-jax`, and `python -m hvae_jax`: the command line, quiet when it is interrupted before it has begun."""

import sys


def main() -> int:
    """Run it; see `hvae_jax.cli.main`."""
    try:
        from hvae_jax.cli import main as run  # which takes a moment to import

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
