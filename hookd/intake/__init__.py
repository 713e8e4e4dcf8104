"""Where events come in: the hook socket and the spool folder."""
