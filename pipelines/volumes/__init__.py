"""Fine-tuned models on whole volumes: prediction, and how good it is."""
