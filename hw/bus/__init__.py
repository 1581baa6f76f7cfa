"""Buses that integrators have, around the core's own two ports."""
