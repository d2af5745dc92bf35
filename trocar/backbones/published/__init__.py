"""Published weights that Trocar loads strictly, by name. A family is one file, which registers its weights."""
