"""DICOM: series, and outlines that lie on them."""
