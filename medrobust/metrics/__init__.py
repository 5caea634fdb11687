"""Metrics: what is measured of victims, of perturbations and of detectors."""
