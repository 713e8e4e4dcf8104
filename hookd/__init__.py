"""hookd: every event of a zdb ends stored and verified, or visibly pending."""

__version__ = "0.1.0"
