"""What runs: one file per flow, wiring only."""
