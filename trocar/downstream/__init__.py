"""Labelled data sets, tasks, protocols and metrics."""
