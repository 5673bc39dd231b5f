"""Prediction of scans as they come, through nnU-Net's command, with what goes in and what comes out checked."""
