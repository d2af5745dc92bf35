"""`python -m trocar` is the `trocar` command."""

from trocar.cli import entry

if __name__ == "__main__":
    raise SystemExit(entry())
