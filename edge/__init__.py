"""The line side: reads 16-bit scans, judges them, and publishes verdicts. Never imports torch."""

__version__ = "0.1.0"
