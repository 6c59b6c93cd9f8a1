"""Tokenizers: one class over Hugging Face and SentencePiece models, the files of published ones, and training."""
