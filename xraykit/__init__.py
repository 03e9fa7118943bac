"""xraykit: few-shot chest X-ray classification, taught honestly."""

__version__ = "0.1.0"
