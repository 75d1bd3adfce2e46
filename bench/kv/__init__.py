"""The key/value part: three nodes of each system and one load generator on one machine."""
