"""Figures for people and Prometheus, from the counters that segments carry."""
