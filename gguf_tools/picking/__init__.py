"""Which quantization of a model to use on this machine: measured, remembered, chosen by a rule."""
