#include "export_folder.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "error.h"

using nlohmann::json;

namespace {

constexpr int kSchemaVersion = 1;

ModelFile model_file(const json& app, const std::string& name, const std::string& folder) {
  const json& entry = app.at("models").at(name);
  ModelFile model{folder + "/" + entry.at("file").get<std::string>(), entry.at("size_mb"), {}, {}};
  for (const char* kind : {"inputs", "outputs"}) {
    for (const json& port : entry.at(kind)) {
      auto& ports = kind == std::string("inputs") ? model.inputs : model.outputs;
      ports.push_back({port.at("name"), port.at("dtype"), port.at("shape").get<std::vector<int>>()});
    }
  }
  return model;
}

std::vector<float> read_floats(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw Error(path + ": cannot be read; export the folder again");
  std::vector<float> values(static_cast<size_t>(file.tellg()) / sizeof(float));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(values.size() * sizeof(float)));
  return values;
}

ExportFolder build(const json& root, const std::string& folder) {
  const json& entry = root.at("litert");
  const json& app = entry.at("app");
  ExportFolder out;
  out.text_encoder = model_file(app, "text_encoder", folder);
  out.denoiser = model_file(app, "denoiser", folder);
  out.decoder = model_file(app, "decoder", folder);
  out.weights_sha256 = entry.at("checkpoint").value("weights_sha256", "");

  const json& prompt = app.at("prompt");
  out.prompt.tokenizer_json = folder + "/" + prompt.at("folder").get<std::string>() + "/tokenizer.json";
  out.prompt.tokens = prompt.at("tokens");
  out.prompt.empty_context = read_floats(folder + "/" + prompt.at("empty_context").get<std::string>());

  const json& sampling = app.at("sampling");
  out.sampling = {sampling.at("sampler"), sampling.at("guidance"), sampling.at("initial_scale"), {}};
  for (const json& step : sampling.at("steps"))
    out.sampling.steps.push_back(
        {step.at("timestep"), step.at("input_scale"), step.at("keep"), step.at("add"), step.at("noise")});

  out.latents = app.at("latents").at("shape").get<std::vector<int>>();
  const json& decoding = app.at("decoding");
  out.decoding.frames = decoding.at("frames");
  out.decoding.runs = decoding.value("runs", 1);
  out.decoding.drop_first = decoding.value("drop_first", 0);
  out.decoding.state = decoding.value("state", std::vector<std::string>{});
  const json video_frames = decoding.value("video_frames", json());
  out.decoding.video_frames = video_frames.is_null() ? out.decoding.frames : video_frames.get<int>();

  const json& clip = app.at("clip");
  out.clip = {clip.at("frames"), clip.at("height"), clip.at("width"), clip.at("channels"), clip.at("fps"),
              clip.value("minimum", -1.0f), clip.value("maximum", 1.0f)};
  return out;
}

void check(const ExportFolder& e, const std::string& path) {
  if (e.sampling.steps.empty()) throw Error(path + ": sampling.steps: is empty; export again");
  if (e.latents.size() != 5) throw Error(path + ": latents.shape: needs 5 numbers; export again");
  if (e.decoding.runs * e.decoding.frames != e.latents[2])
    throw Error(path + ": decoding: runs x frames differ from the latents' frames; export again");
  if (e.clip.frames != e.decoding.runs * e.decoding.video_frames - e.decoding.drop_first)
    throw Error(path + ": clip.frames: differs from what decoding gives; export again");
  if (e.prompt.empty_context.size() != e.denoiser.input("context").size())
    throw Error(path + ": prompt.empty_context: its file has another size than the denoiser's context; export again");
}

}  // namespace

size_t Port::size() const {
  size_t size = 1;
  for (int n : shape) size *= static_cast<size_t>(n);
  return size;
}

const Port& ModelFile::input(const std::string& name) const {
  for (const Port& port : inputs)
    if (port.name == name) return port;
  throw Error("export.json: " + path + " has no input '" + name + "'; export again");
}

ExportFolder read_export_folder(const std::string& folder) {
  const std::string path = folder + "/export.json";
  std::ifstream file(path);
  if (!file) throw Error(path + ": cannot be read; --export needs a folder that 'nas export --format litert' wrote");
  json root;
  try {
    root = json::parse(file);
  } catch (const json::exception&) {
    throw Error(path + ": is not JSON; export again");
  }
  const bool current = root.is_object() && root.value("schema_version", json()) == kSchemaVersion;
  if (!current) throw Error(path + ": schema_version: this program reads version 1; build the program of the same release");
  if (!root.contains("litert"))
    throw Error(path + ": has no entry 'litert'; run 'nas export --format litert' with this folder as --out");
  try {
    ExportFolder out = build(root, folder);
    check(out, path);
    return out;
  } catch (const json::exception& error) {
    throw Error(path + ": " + error.what());
  }
}
