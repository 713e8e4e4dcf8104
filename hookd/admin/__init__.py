"""Looking at a running daemon, and the few things that may be told to it.

Parts → view → picture → server ─┬→ metrics   (daemon's side)
                                 └→ client → screen   (`hookd status` and its like)
"""
