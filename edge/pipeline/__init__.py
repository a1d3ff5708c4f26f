"""What one scan goes through: read, convert, infer, decide, commit."""
