"""Trainers that nnU-Net finds by name: `nnUNet_extTrainer` is the path of this folder."""
