"""Local files against ledger against store: at start, on a timer, on demand, and with no daemon at all.

finding ← local, remote, deep ← run ← auditor (in the daemon), offline (`hookd verify` without one)
"""
