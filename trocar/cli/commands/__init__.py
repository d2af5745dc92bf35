"""One file per command: `register(subparsers)` declares it, `run(args)` returns the exit code.

These files are imported by every `trocar` call, so they import nothing heavy (torch, timm, mlflow, av, pandas)
at the top level: that belongs inside `run`.
"""
