"""The embedded model family: the synthetic world it lives in, its training and its weights."""
