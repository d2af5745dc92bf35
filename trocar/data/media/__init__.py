"""Pictures and videos as people deliver them, opened in one way for ingest, evaluation and the leak guard."""
