"""One file per command: `register(subparsers)` declares it, `run(args)` returns the exit code.

`trocar --help` imports all of these files, so they import nothing heavy (torch, timm, mlflow, av, pandas)
at the top level: that belongs inside `run`.
"""
