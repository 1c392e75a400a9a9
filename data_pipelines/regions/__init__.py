"""Boxes and masks: policies, perturbations, and the questions made from them."""
