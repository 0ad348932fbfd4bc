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
SAMPLING = {"clip_sample", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "set_alpha_to_one"}
SAMPLING |= {
    "skip_prk_steps",
    "steps_offset",
    "timestep_spacing",
    "timestep_type",
    "variance_type",
    "interpolation_type",
}
SAMPLING |= {
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "use_lu_lambdas",
    "sigma_min",
    "sigma_max",
}
SAMPLING |= {
    "final_sigmas_type",
    "algorithm_type",
    "solver_order",
    "solver_type",
    "lower_order_final",
    "euler_at_final",
}
SAMPLING |= {"lambda_min_clipped", "solver_p", "predict_x0", "disable_corrector", "original_inference_steps"}
SAMPLING |= {
    "thresholding",
    "timestep_scaling",
    "use_flow_sigmas",
    "flow_shift",
    "use_dynamic_shifting",
    "time_shift_type",
    "shift_terminal",
}
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
