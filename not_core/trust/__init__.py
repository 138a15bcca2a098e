"""Who made an organ, who may open it, and the envelopes that prove it; needs no torch."""
