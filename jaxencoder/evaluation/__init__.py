"""What a model is worth: published sets, reports, significance, and many runs in one command."""
