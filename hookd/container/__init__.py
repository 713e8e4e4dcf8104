"""What runs beside hookd in the QSFS container: its checks at the start, PID 1, the small commands
of the zinit services. Nothing here is imported by the daemon.
"""
