"""Offline HTML pages: about a run, and about a study."""
