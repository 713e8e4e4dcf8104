"""Stage restore: what is lost here comes back from the store, and nothing that is here is harmed.

    local, remote → table → plan → fetch → place

`survey` runs it for namespaces-init and ready, `offline` for `hookd restore` beside a stopped zdb.
"""
