"""Measuring on devices: rounds beside a reference, profiles, checks, single models."""
