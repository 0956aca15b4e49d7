"""The networks of a bundle as they answer: ONNX graphs in onnxruntime, made from torch once."""
