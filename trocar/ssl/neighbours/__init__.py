"""Nearest-neighbour indexes of a catalog's frames, built with a backbone."""
