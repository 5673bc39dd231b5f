"""One page about one trained model, to be read by itself and passed on."""

from rectal_nnformer.reporting.report.write import REPORT_FILE, try_report, write_report

__all__ = ["REPORT_FILE", "try_report", "write_report"]
