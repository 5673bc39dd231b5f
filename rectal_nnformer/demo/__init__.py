"""The whole way on a made cohort."""
