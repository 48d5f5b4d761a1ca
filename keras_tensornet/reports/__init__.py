"""Reports on compressed models: tables, JSON, figures and a page to look at."""

from keras_tensornet.reports.report import CompressionReport, LayerReport, compression_report

__all__ = ["CompressionReport", "LayerReport", "compression_report"]
