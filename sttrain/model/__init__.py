"""The masked autoencoder: its tokens, layers, contexts, and what it may be asked."""
