"""Reading images, showing them, and masks."""
