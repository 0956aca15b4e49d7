"""The log, the metrics and the health check."""
