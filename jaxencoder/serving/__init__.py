"""An HTTP server for models: the routes of text-embeddings-inference, OpenAI, Cohere and vLLM."""
