"""Synthetic labelled laparoscopy videos."""
