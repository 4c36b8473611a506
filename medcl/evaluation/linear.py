"""The linear probe: logistic or ridge regression on frozen features, one model for each strength; and the raw-pixel floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # C of the literature: weight of the data against the penalty
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Standardiser:
    """Shift and scale of every feature, measured on training cases without looking at labels."""

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, dim) -> (n, dim) with mean 0 and spread 1 on the training cases; constant features become 0."""
        return (np.asarray(features, dtype=np.float64) - self.mean) / self.scale


@dataclass(frozen=True)
class LinearModel:
    """outputs = features @ weight + bias: values, or logits (for two classes those of the second, else one column per class)."""

    weight: np.ndarray
    bias: np.ndarray
    strength: float

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(n, dim) -> (n, classes)."""
        return _softmax(_as_classes(self.outputs(features)))

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """(n, dim) -> (n, columns)."""
        return features @ self.weight + self.bias


def standardiser(features: np.ndarray) -> Standardiser:
    """Measure mean and spread of (n, dim) features."""
    features = np.asarray(features, dtype=np.float64)
    scale = features.std(0)
    floor = 1e-6 * max(float(scale.max(initial=0.0)), 1e-12)
    return Standardiser(features.mean(0), np.where(scale > floor, scale, np.inf))


def fit_logistic(features: np.ndarray, label: np.ndarray, classes: int, strengths: tuple[float, ...] = STRENGTHS) -> list[LinearModel]:
    """One L2-penalised logistic regression per strength (ascending), each started from the one before; by L-BFGS.

    Minimises C * sum of log losses + |weight|^2 / 2, the bias free. The penalty does not care about rotations, so the cases are solved
    along their principal axes, each in units in which the loss is about as curved as along the others: spread / 4 + penalty is the
    most that p (1 - p) allows. That takes few steps, however unlike the spreads.
    """
    features = np.asarray(features, dtype=np.float64)
    mean, axes = principal_components(features, min(features.shape))
    along = (features - mean) @ axes
    spread = np.mean(along**2, axis=0)
    truth = np.eye(classes)[label]
    weight, bias = np.zeros((axes.shape[1], 1 if classes == 2 else classes)), np.zeros(1 if classes == 2 else classes)
    models = []
    for strength in sorted(strengths):
        penalty = 1.0 / (strength * len(features))
        weight, bias = _minimise(weight, bias, along, truth, 1.0 / np.sqrt(spread / 4 + penalty)[:, None], penalty)
        whole = axes @ weight
        models.append(LinearModel(whole, bias - mean @ whole, strength))
    return models


def fit_ridge(features: np.ndarray, value: np.ndarray, strengths: tuple[float, ...] = STRENGTHS) -> list[LinearModel]:
    """One L2-penalised linear regression per strength (ascending), all from one decomposition.

    Minimises C * sum of squared errors / 2 + |weight|^2 / 2, errors in spreads of the values, the bias free. value: (n,).
    """
    features, value = np.asarray(features, dtype=np.float64), np.asarray(value, dtype=np.float64)
    middle, mean, spread = features.mean(0), value.mean(), max(float(value.std()), 1e-12)
    left, singular, right = np.linalg.svd(features - middle, full_matrices=False)
    share = left.T @ ((value - mean) / spread)
    models = []
    for strength in sorted(strengths):
        weight = spread * right.T @ (share * singular / (singular**2 + 1 / strength))
        models.append(LinearModel(weight[:, None], np.array([mean - middle @ weight]), strength))
    return models


def principal_components(train: np.ndarray, components: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Mean (dim,) and leading directions (dim, components) of (n, dim) rows, signs fixed so that the same rows give the same map."""
    train = np.asarray(train, dtype=np.float64)
    mean = train.mean(0)
    centred = train - mean
    if len(centred) < centred.shape[1]:  # the smaller of the two Gram matrices
        values, vectors = np.linalg.eigh(centred @ centred.T)
        directions = centred.T @ vectors
    else:
        values, directions = np.linalg.eigh(centred.T @ centred)
    keep = np.argsort(-values, kind="stable")[: min(components, int((values > 1e-9 * max(values.max(), 1e-300)).sum()))]
    directions = directions[:, keep] / np.maximum(np.linalg.norm(directions[:, keep], axis=0), 1e-12)
    largest = directions[np.argmax(np.abs(directions), axis=0), np.arange(directions.shape[1])] if len(keep) else np.ones(0)
    return mean, directions * np.where(largest < 0, -1.0, 1.0)


def _minimise(
    weight: np.ndarray, bias: np.ndarray, along: np.ndarray, truth: np.ndarray, unit: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Mean log loss + penalty * |weight|^2 / 2, from (weight, bias) on. unit: (axes, 1), the scale of each weight."""
    from scipy.optimize import minimize

    shape, count, scaled, steepness = (len(weight) + 1, len(bias)), len(along), along * unit.T, penalty * unit**2

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(shape)
        log_p = _log_softmax(_as_classes(scaled @ parameters[:-1] + 2 * parameters[-1]))
        excess = (np.exp(log_p) - truth) / count
        excess = excess[:, 1:] if shape[1] == 1 else excess
        gradient = np.concatenate([scaled.T @ excess + steepness * parameters[:-1], 2 * excess.sum(0, keepdims=True)])
        return float(-np.sum(truth * log_p) / count + 0.5 * np.sum(steepness * parameters[:-1] ** 2)), gradient.ravel()

    start = np.concatenate([weight / unit, bias[None] / 2]).ravel()
    options = {"gtol": _TOLERANCE, "ftol": 1e-14, "maxiter": 2000, "maxcor": 20}
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
    return found[:-1] * unit, 2 * found[-1]


def _as_classes(logits: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(_log_softmax(logits))
