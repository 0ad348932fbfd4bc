"""The training stages: decoder, distill, supernet, finetune, adversarial, and data preparation."""
