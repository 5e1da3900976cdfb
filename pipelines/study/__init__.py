"""Studies: what pre-training brings, measured over seeds beside cheap baselines."""
