"""Torch blocks that models are made of: tensors in, tensors out, nothing known of xarray."""
