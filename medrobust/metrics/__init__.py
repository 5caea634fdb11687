"""Metrics: measures of victims, of perturbations and of detectors."""
