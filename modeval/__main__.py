"""``python -m modeval``: the program, for where its folder is not on the path."""

from modeval.cli.main import run

if __name__ == "__main__":
    run()
