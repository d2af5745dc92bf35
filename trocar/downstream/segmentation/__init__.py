"""Semantic segmentation: a timm backbone with a decoder, its training, its predictions and pictures of them."""
