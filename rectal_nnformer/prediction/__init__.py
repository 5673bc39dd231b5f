"""Prediction of scans as they come, with nnU-Net's predictor sped up, and all that goes in and comes out checked."""
