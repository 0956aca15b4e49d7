"""Tests of the networks as they answer."""
