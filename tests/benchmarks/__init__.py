"""Programs that measure time and memory; run them from the checkout as `python -m tests.benchmarks.NAME`."""
