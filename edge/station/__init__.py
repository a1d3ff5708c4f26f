"""The X-ray station's folder: which files are complete, which have their verdict, where they go after it."""
