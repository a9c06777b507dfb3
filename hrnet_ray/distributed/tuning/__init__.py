"""A search from the inside: what is drawn, who is stopped, what a trial does and leaves."""
