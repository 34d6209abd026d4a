"""Neurons: the units of `mlp_act`, found by ablation."""
