"""`python -m genserve` is the same as the `genserve` command."""

from genserve.cli.main import run

if __name__ == "__main__":
    run()
