"""Fine-tuning an encoder; `python -m tasks.train --data DIR --out DIR` needs torch, transformers and scikit-learn only."""
