#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

/// An input or output of a model.
struct Port {
  std::string name, dtype;
  std::vector<int> shape;

  size_t size() const;
};

struct ModelFile {
  std::string path;
  double size_mb;
  std::vector<Port> inputs, outputs;

  const Port& input(const std::string& name) const;
};

/// `x = keep * x + add * prediction + noise * normal noise`.
struct Step {
  float timestep, input_scale, keep, add, noise;
};

struct Sampling {
  std::string sampler;
  float guidance, initial_scale;
  std::vector<Step> steps;
};

struct Prompt {
  std::string tokenizer_json;
  size_t tokens;
  std::vector<float> empty_context;
};

struct Decoding {
  int frames, runs, video_frames, drop_first;
  std::vector<std::string> state;
};

struct ClipSize {
  int frames, height, width, channels;
  double fps;
  float minimum, maximum;
};

/// The entry `litert` of `export.json`, see nas/export/app.py.
struct ExportFolder {
  ModelFile text_encoder, denoiser, decoder;
  Prompt prompt;
  Sampling sampling;
  std::vector<int> latents;  // (1, C, T, h, w)
  Decoding decoding;
  ClipSize clip;
  std::string weights_sha256;
};

/// Throws `Error` naming the file and the field.
ExportFolder read_export_folder(const std::string& folder);
