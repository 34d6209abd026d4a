"""Fine-tuning on a skill, and what the other skills lose by it."""
