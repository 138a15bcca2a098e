"""The coordinator: offers, sealed bytes and reports; it can open nothing and needs no torch."""
