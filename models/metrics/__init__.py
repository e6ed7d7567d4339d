"""Metrics, each under a key namespaced by the code that defined it.

Two metrics of one name (there are four "frame consistencies") can so never share a column. Every function is
pure: frames, flows and embeddings come from the caller, so no metric loads a network.
"""
