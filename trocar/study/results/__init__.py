"""What a study has found, read back from its store."""
