"""What can happen in a synthetic clip: a function a scenario."""
