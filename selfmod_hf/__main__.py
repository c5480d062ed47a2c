"""`python -m selfmod_hf`, the same as the command `selfmod`."""

from .cli import entry

if __name__ == "__main__":
    entry()
