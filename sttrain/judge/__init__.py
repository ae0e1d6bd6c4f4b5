"""What vectors know: controls, probes, domains, hidden regions, and the tables they end in."""
