"""Admission control, and fair shares of threads and child processes among clients."""
