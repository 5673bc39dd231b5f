"""Files that are never half-written, parallel work, and text for messages and pages."""
