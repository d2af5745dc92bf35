"""Weight files: what they hold, whose they are, where fetched ones are kept, and reading them safely."""
