"""Benchmarks in which a model chooses among answers: HellaSwag, WinoGrande, and others."""
