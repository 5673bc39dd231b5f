"""Training inside nnU-Net: the base of all trainers, its data loader and learning rate, and cross-validation."""
