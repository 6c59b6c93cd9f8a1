"""Everything on disk: runs, folders of transformers and sentence-transformers, adapters."""
