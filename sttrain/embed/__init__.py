"""One vector per measured spot, from our encoders or from other tools, checked against a corpus."""
