"""Datasets and sealed splits, recipes and fidelities, training."""
