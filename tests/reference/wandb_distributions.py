"""W&B's distributions of a sweep's parameter as quantile functions, from its documentation and numpy."""

import numpy as np
from scipy import stats


def quantile(u: float, distribution: str, **d) -> float:
    """The parameter at probability u."""
    if distribution.startswith("q_"):
        return float(np.round(quantile(u, distribution[2:], **d) / d.get("q", 1.0)) * d.get("q", 1.0))
    if distribution == "categorical_w_probabilities":
        return d["values"][int(np.argmax(u < np.cumsum(d["probabilities"])))]
    if distribution == "int_uniform":
        return int(stats.randint.ppf(u, d["min"], d["max"] + 1))
    if distribution == "uniform":
        return stats.uniform.ppf(u, d["min"], d["max"] - d["min"])
    if distribution == "log_uniform":
        return np.exp(stats.uniform.ppf(u, d["min"], d["max"] - d["min"]))
    if distribution == "log_uniform_values":
        return quantile(u, "log_uniform", min=np.log(d["min"]), max=np.log(d["max"]))
    if distribution == "inv_log_uniform":
        return np.exp(-stats.uniform.ppf(1 - u, d["min"], d["max"] - d["min"]))
    if distribution == "inv_log_uniform_values":
        return quantile(u, "inv_log_uniform", min=-np.log(d["max"]), max=-np.log(d["min"]))
    if distribution == "normal":
        return stats.norm.ppf(u, d.get("mu", 0), d.get("sigma", 1))
    if distribution == "log_normal":
        return stats.lognorm.ppf(u, s=d.get("sigma", 1), scale=np.exp(d.get("mu", 0)))
    if distribution == "beta":
        return stats.beta.ppf(u, d.get("a", 1), d.get("b", 1))
    raise ValueError(distribution)
