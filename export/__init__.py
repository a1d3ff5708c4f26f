"""From checkpoints to the signed model bundle the line runs. Importing it loads neither torch nor onnx."""
