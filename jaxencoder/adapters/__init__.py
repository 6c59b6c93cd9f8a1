"""Adapters: small trainable parameters for a frozen model, which are merged into it before it computes."""
