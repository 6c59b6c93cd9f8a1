"""Fewer vectors of a text: clusters of similar ones, each replaced by its mean.

Clavié et al. 2024 (token pooling), arXiv:2409.14683.
"""

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from jaxencoder.model.multi_vector import TokenPooling
from jaxencoder.model.similarity import unit


def pooled(pooling: TokenPooling, vectors: np.ndarray) -> np.ndarray:
    """Vectors [n, D] float32 of length 1 of a text, about `pooling.factor` times fewer than [N, D] before.

    Clusters are those of Ward's linkage by 1 - cosine: HierarchicalTokenPooling of sentence-transformers.
    """
    first, rest = vectors[: pooling.protected], vectors[pooling.protected :]
    clusters = max(int(len(rest) // pooling.factor), 1)
    if clusters < len(rest):
        distances = np.clip(1 - rest @ rest.T, 0, 2)
        linkage = hierarchy.ward(squareform(distances, checks=False))
        # fcluster may find fewer clusters where distances are equal.
        _, members = np.unique(hierarchy.fcluster(linkage, clusters, "maxclust"), return_inverse=True)
        sums = np.zeros((members.max() + 1, vectors.shape[1]), np.float32)
        np.add.at(sums, members, rest)
        vectors = np.concatenate([first, sums / np.bincount(members)[:, None].astype(np.float32)])
    return unit(vectors) if pooling.normalize else vectors
