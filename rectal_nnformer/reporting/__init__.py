"""Results of trained models as tables, pictures and pages."""
