"""The fused numerics under the model: attention and cross-entropy, each equal to one dense reference."""
