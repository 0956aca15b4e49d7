"""The command line: `reellama ask`, `describe`, `chat`, `doctor`, `train`, `eval`, `demo-video`."""
