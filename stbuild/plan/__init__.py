"""What would be built, before any work; as a table and as one HTML page."""
