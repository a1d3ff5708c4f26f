"""From checkpoints to the signed model the line runs. Importing it loads neither torch nor onnx."""
