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

    Minimises C * sum of log losses + |weight|^2 / 2, the bias free. The penalty does not care about rotations, so few
    cases with many features are solved in the few directions that the cases span.
    """
    features = np.asarray(features, dtype=np.float64)
    basis = np.linalg.svd(features, full_matrices=False)[2] if len(features) < features.shape[1] else None
    reduced = features if basis is None else features @ basis.T
    columns = 1 if classes == 2 else classes
    parameters = np.zeros((reduced.shape[1] + 1, columns))
    models = []
    for strength in sorted(strengths):
        parameters = _minimise(parameters, reduced, label, strength)
        weight = parameters[:-1] if basis is None else basis.T @ parameters[:-1]
        models.append(LinearModel(weight, parameters[-1], strength))
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


def _minimise(start: np.ndarray, features: np.ndarray, label: np.ndarray, strength: float) -> np.ndarray:
    from scipy.optimize import minimize

    shape, count = start.shape, len(features)
    truth = np.eye(max(2, shape[1]))[label]
    penalty = 1.0 / (strength * count)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        parameters = flat.reshape(shape)
        log_p = _log_softmax(_as_classes(features @ parameters[:-1] + parameters[-1]))
        excess = (np.exp(log_p) - truth) / count
        excess = excess[:, 1:] if shape[1] == 1 else excess
        gradient = np.concatenate([features.T @ excess + penalty * parameters[:-1], excess.sum(0, keepdims=True)])
        return float(-np.sum(truth * log_p) / count + 0.5 * penalty * np.sum(parameters[:-1] ** 2)), gradient.ravel()

    options = {"gtol": _TOLERANCE, "ftol": 1e-12, "maxiter": 2000, "maxcor": 20}
    return minimize(loss_and_gradient, start.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(shape)


def _as_classes(logits: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def _softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(_log_softmax(logits))
