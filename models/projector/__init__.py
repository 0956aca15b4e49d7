"""The temporal projector: features of frames to soft tokens, and what these mean."""
