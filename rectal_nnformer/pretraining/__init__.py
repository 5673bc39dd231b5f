"""Pretraining of an encoder on scans without outlines: masked image modelling with self-distillation."""
