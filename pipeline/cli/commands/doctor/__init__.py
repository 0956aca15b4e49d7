"""`reellama doctor`."""
