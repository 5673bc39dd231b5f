"""One module per source format; each writes an nnU-Net raw dataset."""
