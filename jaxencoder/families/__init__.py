"""The families of encoders as others publish them: configuration, names of weights and files, both ways."""
