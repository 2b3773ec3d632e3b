"""LoRA fine-tuning against a frozen detector."""
