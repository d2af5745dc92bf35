"""Pixels and features of labelled frames, decoded or computed once and kept."""
