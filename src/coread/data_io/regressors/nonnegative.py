"""Non-negative matrix factorisation of rectified low-rank matrices, without ever forming them."""

import logging
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse
from jaxtyping import Float, Float64

log = logging.getLogger(__name__)

CHUNK_ROWS = 512
TOLERANCE = 1e-4  # of the sum of violations against the first sweep, as scikit-learn's NMF


@dataclass(frozen=True, eq=False)
class RectifiedMap:
    """The matrix max(0, mean + latent @ decode) (row, column) as low-rank part plus the sparse part that rectifies.

    Predicted responses of 5,000 trials and 8,000 neurons would be 40 million numbers, read twice in every sweep of the
    factorisation; their low rank makes a product with them hundreds of times cheaper, and exact all the same.
    """

    left: Float64[np.ndarray, "row rank_and_one"]
    right: Float64[np.ndarray, "rank_and_one column"]
    below_zero: scipy.sparse.csr_array

    @classmethod
    def of(
        cls,
        latent: Float[np.ndarray, "row rank"],
        decode: Float[np.ndarray, "rank column"],
        mean: Float[np.ndarray, "column"],
    ) -> "RectifiedMap":
        """Find the entries below zero, some rows at a time."""
        left = np.column_stack([np.ones(len(latent)), latent]).astype(np.float64)
        right = np.vstack([mean, decode]).astype(np.float64)
        chunks = [
            scipy.sparse.csr_array(np.maximum(-(left[start : start + CHUNK_ROWS] @ right), 0))
            for start in range(0, len(left), CHUNK_ROWS)
        ]
        return cls(left, right, scipy.sparse.vstack(chunks, format="csr"))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.left), self.right.shape[1]

    def mean(self) -> float:
        """Return the mean of all entries."""
        total = self.left.sum(axis=0) @ self.right.sum(axis=1) + self.below_zero.sum()
        return float(total / np.prod(self.shape))

    def times(self, other: Float64[np.ndarray, "column k"]) -> Float64[np.ndarray, "row k"]:
        """Return the matrix times another."""
        return self.left @ (self.right @ other) + self.below_zero @ other

    def transposed_times(self, other: Float64[np.ndarray, "row k"]) -> Float64[np.ndarray, "column k"]:
        """Return the transposed matrix times another."""
        return self.right.T @ (self.left.T @ other) + self.below_zero.T @ other


def factorise(
    matrix: RectifiedMap, n_factors: int, seed: int, max_iterations: int
) -> Float64[np.ndarray, "factor column"]:
    """Return the factors H >= 0 of matrix ~ W H by coordinate descent (Cichocki & Phan 2009).

    Start, order and end of the sweeps are those of scikit-learn's NMF with `init="random"`, whose result for this seed
    it gives. A factorisation that has not settled within `max_iterations` is logged and used, as published.
    """
    n_rows, n_columns = matrix.shape
    # NumPy's legacy generator on purpose: it draws the published start
    random_state = np.random.RandomState(seed)
    size = np.sqrt(max(matrix.mean(), 0.0) / n_factors)
    factors = np.abs(size * random_state.standard_normal((n_factors, n_columns))).T
    weights = np.asfortranarray(np.abs(size * random_state.standard_normal((n_rows, n_factors))))  # read by column
    first = 0.0
    for _ in range(max_iterations):
        violation = _sweep(weights, factors.T @ factors, matrix.times(factors))
        violation += _sweep(factors, weights.T @ weights, matrix.transposed_times(weights))
        first = first or violation
        if violation <= TOLERANCE * first:
            break
    else:
        log.info("the factorisation of the network state has not settled in %d iterations", max_iterations)
    return factors.T


def _sweep(
    weights: Float64[np.ndarray, "row k"], gram: Float64[np.ndarray, "k k"], cross: Float64[np.ndarray, "row k"]
) -> float:
    """Improve one column of the weights after the other, in place; return how much optimality was violated."""
    violation = 0.0
    for column in range(len(gram)):
        gradient = weights @ gram[:, column] - cross[:, column]
        violation += np.abs(np.where(weights[:, column] == 0, np.minimum(gradient, 0), gradient)).sum()
        if gram[column, column] > 0:
            weights[:, column] = np.maximum(weights[:, column] - gradient / gram[column, column], 0)
    return float(violation)


def non_negative_weights(
    gram: Float64[np.ndarray, "k k"], cross: Float64[np.ndarray, "row k"]
) -> Float64[np.ndarray, "row k"]:
    """Return, for every row x of a matrix, the weights w >= 0 that minimise |x - w H|, given H H' and x H'.

    Solved exactly row by row (Lawson & Hanson 1974): descent on all rows at once ends when all together are good
    enough, so that a row's weights would depend on the other rows, later trials among them.
    """
    # any matrix A with A'A = H H' gives the same problem in k instead of thousands of equations
    values, vectors = scipy.linalg.eigh(gram)
    root = np.sqrt(np.maximum(values, 0))
    kept = root > root[-1] * np.sqrt(len(gram) * np.finfo(np.float64).eps)
    equations = root[kept, None] * vectors[:, kept].T
    targets = (cross @ vectors[:, kept]) / root[kept]
    steps = 100 * len(gram)  # the default of 3 per weight can be too few where factors are nearly the same
    return np.stack([scipy.optimize.nnls(equations, target, maxiter=steps)[0] for target in targets])
