"""A few patches that stand for many: greedy k-centre, in a random projection."""

import torch
from sklearn.random_projection import SparseRandomProjection

PROJECTED = 128  # dimensions that distances are measured in


def projected(points: torch.Tensor, *, seed: int) -> torch.Tensor:
    """Points float32 (n, D) in at most `PROJECTED` dimensions, in which distances change little.

    Johnson and Lindenstrauss 1984, with the sparse matrix of Li, Hastie and Church, KDD 2006. Points of so
    few dimensions come back as they are.
    """
    if points.shape[1] <= PROJECTED:
        return points
    sparse = SparseRandomProjection(PROJECTED, random_state=seed, dense_output=True)
    return torch.from_numpy(sparse.fit_transform(points.cpu().numpy())).float().to(points.device)


def k_centres(points: torch.Tensor, k: int, *, first: int) -> torch.Tensor:
    """Greedy k-centre: each next centre is the point that lies farthest from all centres so far.

    The largest distance of any point to its centre is at most twice the best possible (Gonzalez 1985); as the
    coreset of PatchCore in Roth et al., CVPR 2022, algorithm 1, after Sener and Savarese, ICLR 2018.

    Args:
        points: float32 (n, D).
        k: centres, 1 to n.
        first: position of the first one.

    Returns:
        Positions int64 (k,), each once, in the order of choice: the first j are the greedy j-centre.
    """
    points = points - points.mean(dim=0)  # the squares below lose less to rounding
    squares = points.square().sum(dim=1)
    nearest = torch.full_like(squares, torch.inf)
    chosen = torch.empty(k, dtype=torch.int64, device=points.device)
    centre = torch.tensor(first, device=points.device)
    for i in range(k):
        chosen[i] = centre
        to_centre = squares + squares[centre] - 2 * (points @ points[centre])
        nearest = torch.minimum(nearest, to_centre)
        nearest[chosen[i]] = -torch.inf
        centre = nearest.argmax()
    return chosen
