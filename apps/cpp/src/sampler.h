#pragma once

#include <functional>
#include <vector>

#include "export_folder.h"

/// Latents after all sampling steps of `export.json`.
///
/// `denoise(x, timestep, conditional)` returns the denoiser's output for the prompt, or for the empty prompt.
using Denoise = std::function<std::vector<float>(const std::vector<float>& x, float timestep, bool conditional)>;
std::vector<float> sample(const Sampling& sampling, size_t size, uint64_t seed, const Denoise& denoise);
