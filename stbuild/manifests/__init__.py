"""What is to be built: a TOML file with a sample sheet, or a list of paths."""
