"""Networks, the compiled trainer, own models, seeding, scores."""
