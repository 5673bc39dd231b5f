"""nnU-Net's folders, file names and commands."""
