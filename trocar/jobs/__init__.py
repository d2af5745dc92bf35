"""What Trocar does, as plain functions: they put data, leakage, ssl and downstream together.

Each takes a configuration object and callables, returns its result and raises TrocarError. The Python interface, the
command line and studies call the same ones; none prints, installs signal handlers, exits or changes its process.
"""
