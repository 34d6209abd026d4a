"""Sparse autoencoders: training, published file formats, features, attribution and ablation."""
