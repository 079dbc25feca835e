"""Samplers: ordinary Optuna samplers, always named, with settings fitted to the budget."""

from edgenas.strategy.samplers.builtin import make_sampler, resolve_strategy

__all__ = ["make_sampler", "resolve_strategy"]
