"""Reads the config of a diffusers checkpoint's scheduler: what the UNet predicts, at which noise.

What decides how a UNet was trained is honored or refused by name. How diffusers would sample from it is ignored:
`nas.diffusion.sampling` samples.
"""

from __future__ import annotations

from pathlib import Path

from nas.diffusion import ddpm
from nas.diffusion.predictions import Objective
from nas.errors import ConfigError
from nas.files import read_json

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""What this library calls diffusers' prediction types."""
TRAINING = {
    "num_train_timesteps": ddpm.TIMESTEPS,
    "beta_schedule": "scaled_linear",
    "beta_start": ddpm.FIRST_BETA,
    "beta_end": ddpm.LAST_BETA,
    "trained_betas": None,
}
"""The values that this library implements, by key."""
SAMPLING = {
    "algorithm_type", "clip_sample", "clip_sample_range", "disable_corrector", "dynamic_thresholding_ratio",
    "euler_at_final", "final_sigmas_type", "flow_shift", "interpolation_type", "lambda_min_clipped",
    "lower_order_final", "original_inference_steps", "predict_x0", "sample_max_value", "set_alpha_to_one",
    "shift_terminal", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order", "solver_p", "solver_type",
    "steps_offset", "thresholding", "time_shift_type", "timestep_scaling", "timestep_spacing", "timestep_type",
    "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas", "use_flow_sigmas", "use_karras_sigmas",
    "use_lu_lambdas", "variance_type",
}  # fmt: skip
"""Keys that only say how diffusers would sample."""


def scheduler_objective(folder: str | Path) -> Objective:
    """The objective that a checkpoint's UNet was trained with; without a scheduler that of Stable Diffusion v1.5.

    Args:
        folder: of the checkpoint, whose `scheduler/scheduler_config.json` is read.

    Raises:
        ConfigError: the config says something that this library does not implement, or has a key that it does not know.
    """
    path = Path(folder) / "scheduler" / "scheduler_config.json"
    if not path.exists():
        return Objective("epsilon")
    config = read_json(path, "scheduler config", dict)
    kind = config.get("prediction_type", "epsilon")
    if not isinstance(kind, str) or kind not in PREDICTIONS:
        raise ConfigError(f"{path}: unknown prediction_type '{kind}'; known: {', '.join(PREDICTIONS)}")
    for key, value in config.items():
        if key in TRAINING and value != TRAINING[key]:
            raise ConfigError(
                f"{path}: {key}: {value!r:.60} is not implemented; use a checkpoint trained with {TRAINING[key]!r}, "
                "as Stable Diffusion v1 and v2 are"
            )
        known = key in TRAINING or key in SAMPLING or key in ("prediction_type", "rescale_betas_zero_snr")
        if not known and not key.startswith("_"):
            raise ConfigError(f"{path}: unknown key '{key}'; remove it if it does not change how the UNet was trained")
    try:
        return Objective(PREDICTIONS[kind], zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)))
    except ConfigError as error:
        raise ConfigError(f"{path}: rescale_betas_zero_snr: true: {error}") from None
