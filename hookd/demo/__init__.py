"""`hookd demo`: hookd at work, with real processes and things going wrong on purpose.

trace (the recorded life of a zdb) → trace_act ─┐
                                                ├→ run → screen (steps, then tables)
living_zdb, resp (a zdb on PATH) → zdb_act ─────┘
                  both: stage (folder, daemon, shim), check → report
"""
