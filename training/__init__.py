"""Reference pretraining: spatio-temporal overlap rate prediction joined with contrastive learning."""
