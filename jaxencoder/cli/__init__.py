"""The command line: one dataclass per verb, whose fields are its options; `main` finds the verb and runs it."""
