"""How a space is explored: the study, samplers, objectives and limits, the Pareto front."""
