"""`python -m trocar` is the `trocar` command."""

from trocar.cli.main import entry

if __name__ == "__main__":
    raise SystemExit(entry())
