"""Published weights that Trocar loads strictly, by name. A file registers those of one origin, or of a few."""
