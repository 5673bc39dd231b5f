"""CT-pretrained SMIT and Swin UNETR for rectal cancer MRI, as a self-configuring nnU-Net v2 extension."""

__version__ = "0.1.0"
